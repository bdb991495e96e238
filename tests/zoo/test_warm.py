"""Members that begin with weights they are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mer_featurestore import Store
from mer_zoo.fit import fit
from mer_zoo.planning import Plan, make_plan
from mer_zoo.settings import Settings
from mer_zoo.stacked import stacks
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
