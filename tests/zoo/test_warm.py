"""Members that begin with weights they are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import StoreError, UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.fit import fit
from mer_zoo.planning import Plan, make_plan
from mer_zoo.priors import priors
from mer_zoo.removal import remove_run
from mer_zoo.rerun import rerun
from mer_zoo.runs import RunConfig, find_run
from mer_zoo.settings import Settings
from mer_zoo.stacked import stacks
from mer_zoo.train import RunResult, train
from mer_zoo.training import Fitted

QUICK = Settings(epochs=4, lr=0.01)
STILL = replace(QUICK, lr=1e-30)  # a step that float32 cannot see; zero itself is refused as a mistake


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> Plan:
    """Return a plan of three folds of a model with dropout."""
    store = toy(tmp_path_factory.mktemp("warm") / "store")
    return make_plan(store, "attention", folds=3, params={"hidden": 8}, settings=QUICK)


@pytest.fixture(scope="module")
def parents(plan: Plan) -> list[Fitted]:
    """Return the plan's members, trained from scratch."""
    return fit(plan.task(), plan.members())


def test_a_member_begins_with_its_start(plan: Plan, parents: list[Fitted]) -> None:
    """Before the first step a warm module is its parent's: weights, standardisation and predictions."""
    task, member = plan.task(), plan.members()[0]
    module = task.module(replace(member, start=parents[0].state)).eval()
    state = module.state_dict()
    assert set(state) == set(parents[0].state)
    assert all(torch.equal(state[name], value) for name, value in parents[0].state.items())
    assert not torch.equal(task.module(member).state_dict()["model.head.weight"], state["model.head.weight"])
    logits = module(task.features.batch(member.valid)).logits
    torch.testing.assert_close(logits, parents[0].logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stack", [True, False])
def test_without_learning_it_stays_its_parent(plan: Plan, parents: list[Fitted], stack: bool) -> None:
    """A learning rate of next to nothing keeps every weight, either way, and leaves the parent as it was."""
    before = [{name: value.clone() for name, value in p.state.items()} for p in parents]
    warm = [
        replace(member, start=parent.state, settings=STILL)
        for member, parent in zip(plan.members(), parents, strict=True)
    ]
    for parent, child, old in zip(parents, fit(plan.task(), warm, stack=stack), before, strict=True):
        assert all(torch.equal(child.state[name], value) for name, value in old.items())
        assert all(torch.equal(parent.state[name], value) for name, value in old.items())
        torch.testing.assert_close(child.logits, parent.logits, rtol=1e-4, atol=1e-4)


def test_a_warm_stack_equals_the_warm_loop(plan: Plan, parents: list[Fitted]) -> None:
    """Both ways of training go on from the same weights to the same ones, and not where scratch leads."""
    task = plan.task()
    warm = [replace(m, start=p.state) for m, p in zip(plan.members(), parents, strict=True)]
    assert stacks(task, warm) == [[0, 1, 2]]
    for one, other, scratch in zip(fit(task, warm), fit(task, warm, stack=False), parents, strict=True):
        assert one.best_epoch == other.best_epoch
        for name, value in one.state.items():
            torch.testing.assert_close(value, other.state[name], rtol=1e-4, atol=1e-4)
        assert one.history[0]["loss"] < scratch.history[0]["loss"]


def go_on(store: Store, name: str, warm: str | None = "first", **options: Any) -> RunResult:
    """Train a small model on from a run."""
    given: dict[str, Any] = {
        "folds": 2,
        "params": {"hidden": 8},
        "settings": QUICK,
        "features": ["sound-UTT"],
    }
    return train(store, "mlp", name=name, warm=warm, **{**given, **options})


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> Store:
    """Return a store with `first` on gold, and `second` on `round1`, which went on from it."""
    store = toy(tmp_path_factory.mktemp("chain") / "store")
    go_on(store, "first", None)
    layer = LabelLayer.human(
        "round1", ("angry", "happy", "sad"), {"unlabeled-00": "sad"}, parents=("labels/gold",)
    )
    store.labels.add(replace(layer, source=np.ones(1, np.uint8)))
    go_on(
        store,
        "second",
        labels="round1",
        settings=replace(QUICK, epochs=3),
        params={"hidden": 8, "dropout": 0.1},
    )
    return store


def test_a_run_says_what_it_began_with(chain: Store) -> None:
    """The parent is in the configuration, the lineage and the journal; runs from scratch have none."""
    first, second = find_run(chain, "first"), find_run(chain, "second")
    assert (first.config.warm, second.config.warm) == (None, "first")
    assert "runs/first" in second.bundle.parents
    assert second.bundle.attrs["warm"] == "first"
    assert "on from first" in next(iter(chain.log(1))).message
    earlier = second.config.to_json()
    del earlier["warm"]
    assert RunConfig.from_json(earlier).warm is None


def test_each_fold_goes_on_from_its_own(chain: Store) -> None:
    """Folds do not get each other's weights; they keep their parent's standardisation."""
    go_on(chain, "still", settings=replace(STILL, epochs=1))
    for old, new in zip(find_run(chain, "first").states(), find_run(chain, "still").states(), strict=True):
        assert all(torch.equal(new[name], value) for name, value in old.items())
    first, still = (find_run(chain, name).predictions for name in ("first", "still"))
    np.testing.assert_allclose(still.probs, first.probs, atol=1e-4)
    remove_run(chain, "still")


def test_a_warm_run_can_be_done_again(chain: Store) -> None:
    """A rerun begins and ends with the same weights; the parent is not removed from under the run."""
    assert rerun(chain, "second", name="again").identical
    assert find_run(chain, "again").config.warm == "first"
    with pytest.raises(StoreError, match="second"):
        remove_run(chain, "first")
    remove_run(chain, "again")


def test_without_its_parent_a_rerun_says_so(store: Store) -> None:
    """Once the parent is gone by force, the rerun names it."""
    go_on(store, "first", None)
    go_on(store, "second")
    remove_run(store, "first", force=True)
    with pytest.raises(UnknownName, match="first"):
        rerun(store, "second")


def test_what_the_parent_learned_is_not_forgotten(chain: Store) -> None:
    """A clip whose pseudo-label trained the parent alone is told of when the run is scored on it."""
    known = {"unlabeled-00": "sad", "unlabeled-01": "sad"}
    chain.labels.add(LabelLayer.human("truth", ("angry", "happy", "sad"), known))
    go_on(chain, "third", "second", labels="gold")
    assert find_run(chain, "third").config.pseudo == ()
    for run, told in (("third", True), ("second", True), ("first", False)):
        notices = evaluate(chain, run, "unlabeled", "truth").notices
        assert notices == ((f"{run} was trained on pseudo-labels of 1 of these clips",) if told else ())
    assert any("1 of these clips trained" in n for n in priors(chain, "third", resamples=2).notices)


@pytest.mark.parametrize(
    ("options", "told", "remedy"),
    [
        ({"params": {"hidden": 16}}, "hidden was 8 and is 16", "--param hidden=8"),
        ({"features": ["face-UTT"]}, "reads other features", "--features sound-UTT"),
        ({"standardise": False}, "only one of the two standardises", "--standardise"),
        ({"folds": 3}, "its folds are others", "--folds 2 --seed 0 --group-by auto --split train"),
        ({"seed": 1}, "its folds are others", "--folds 2 --seed 0"),
    ],
)
def test_what_does_not_fit_is_refused(chain: Store, options: dict[str, Any], told: str, remedy: str) -> None:
    """Another shape, other features or other folds: told what differs and what to type, before training."""
    before = chain.commit
    with pytest.raises(ZooError, match=f"cannot go on from first: .*{told}") as error:
        go_on(chain, "wrong", **options)
    assert remedy in error.value.remedy
    assert chain.commit == before


def test_another_model_or_no_run_is_refused(chain: Store) -> None:
    """A run of another model, and a name that is no run's."""
    with pytest.raises(ZooError, match="it is of the model mlp, not attention"):
        train(chain, "attention", warm="first", folds=2, features=["sound-UTT", "face-UTT"])
    with pytest.raises(UnknownName, match="no run named 'frist'"):
        go_on(chain, "wrong", "frist")
