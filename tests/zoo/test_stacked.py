"""Members trained as one stack end where the loop ends."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mer_featurestore import Ragged
from mer_zoo.contract import Batch, Output
from mer_zoo.data import Features, Table
from mer_zoo.fit import fit
from mer_zoo.models.blocks import Dropout
from mer_zoo.prepared import logits_of
from mer_zoo.registry import build_model, find_model, models
from mer_zoo.settings import Settings
from mer_zoo.stacked import Stack, stacks
from mer_zoo.training import Diverged, Fitted, Member, Progress, Targets, Task

CLASSES, CLIPS = 3, 30
WIDTHS = {"audio": 5, "video": 4, "text": 3}


def task(model: str = "mlp", *, frames: int = 1, **params: Any) -> Task:
    """Return a small problem: three modalities, some missing here and there, clips of up to `frames` rows."""
    rng = np.random.default_rng(0)
    label, tables = np.arange(CLIPS) % CLASSES, {}
    for number, (name, width) in enumerate(WIDTHS.items()):
        there = np.flatnonzero(np.arange(CLIPS) % 7 != number)
        length = rng.integers(1, frames + 1, len(there))
        offsets = np.concatenate([[0], np.cumsum(length)])
        means = rng.normal(0, 1, (CLASSES, width))[np.repeat(label[there], length)]
        rows = means + rng.normal(0, 1, means.shape)
        tables[name] = Table.pack(Ragged(rows.astype(np.float32), offsets), there, CLIPS)
    features, card = Features(tuple(map(str, range(CLIPS))), tables), find_model(model)
    small = {name: value for name, value in (("hidden", 8), ("heads", 2)) if name in card.params}
    return Task(
        features,
        Targets(torch.eye(CLASSES)[label], torch.ones(CLIPS)),
        lambda given: build_model(card, WIDTHS, CLASSES, {**small, **params, **given}),
    )


def members(count: int = 3, params: Mapping[str, Any] | None = None, **settings: Any) -> list[Member]:
    """Return members of unequal training parts, so that some take more steps an epoch than others."""
    at = torch.arange(CLIPS)
    options = {"epochs": 4, "batch_size": 8, "lr": 1e-2, **settings}
    return [
        Member(
            name=f"fold-{k}",
            train=at[at % (k + 3) != 0],
            valid=at[at % (k + 3) == 0],
            seed=k,
            params=params or {},
            settings=Settings(**options),
        )
        for k in range(count)
    ]


def assert_same(first: list[Fitted], second: list[Fitted], tolerance: float = 1e-4) -> None:
    """Check that histories, best epochs, weights and predictions agree."""
    for a, b in zip(first, second, strict=True):
        assert len(a.history) == len(b.history)
        for one, other in zip(a.history, b.history, strict=True):
            assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
        assert a.best_epoch == b.best_epoch
        assert set(a.state) == set(b.state)
        for name in a.state:
            torch.testing.assert_close(a.state[name], b.state[name], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(a.logits, b.logits, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("model", ["agt", "attention", "mlp"])
def test_a_stack_equals_the_loop(model: str) -> None:
    """With dropout, missing modalities and unequal parts: same losses, weights and predictions."""
    problem, all_members = task(model), members()
    assert stacks(problem, all_members) == [[0, 1, 2]]
    assert_same(fit(problem, all_members), fit(problem, all_members, stack=False))


@pytest.mark.parametrize("name", models())
def test_every_model_trains_the_same_either_way(name: str) -> None:
    """Whether a registered model can be stacked or not, `fit` gives the loop's result."""
    problem = task(name, frames=1, **({"dropout": 0.0} if "dropout" in find_model(name).params else {}))
    both = members(2, epochs=1, batch_size=16, lr=1e-3)
    assert_same(fit(problem, both), fit(problem, both, stack=False))


def test_each_member_has_its_own_settings() -> None:
    """Learning rate, weight decay, dropout, class weights and smoothing may differ within one stack."""
    first, second, third = members()
    mixed = [
        replace(first, params={"dropout": 0.1}),
        replace(
            second, params={"dropout": 0.6}, settings=replace(second.settings, lr=1e-3, class_weights=True)
        ),
        replace(third, settings=replace(third.settings, weight_decay=0.1, label_smoothing=0.2)),
    ]
    problem = task()
    assert stacks(problem, mixed) == [[0, 1, 2]]
    assert_same(fit(problem, mixed), fit(problem, mixed, stack=False))


def test_members_leave_when_they_are_finished() -> None:
    """Those that stop early leave the stack, and the others go on as if alone."""
    all_members = members(4, epochs=25, patience=2)
    problem = task()
    told: list[Progress] = []
    stacked = fit(problem, all_members, progress=told.append)
    assert len({len(f.history) for f in stacked}) > 1
    assert_same(stacked, fit(problem, all_members, stack=False))
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done == told[-1].total == 100


def test_a_member_does_not_depend_on_its_companions() -> None:
    """Trained with other members, or in another order, a member ends the same."""
    problem, (a, b, c) = task(), members()
    among = fit(problem, [a, b, c])
    turned = fit(problem, [c, a])
    assert_same([among[2], among[0]], turned)


def test_sequences_are_stacked_too() -> None:
    """Without dropout, sequences of unequal length train the same in a stack."""
    problem, all_members = task("agt", frames=6, dropout=0.0), members(2)
    assert stacks(problem, all_members) == [[0, 1]]
    assert_same(fit(problem, all_members), fit(problem, all_members, stack=False))


def test_sequences_with_dropout_repeat_themselves() -> None:
    """With dropout they still give the same result each time."""
    problem, all_members = task("agt", frames=6), members(2, epochs=2)
    first, second = (fit(problem, all_members) for _ in range(2))
    assert [f.history for f in first] == [f.history for f in second]


def test_an_lstm_is_not_stacked() -> None:
    """What vmap cannot map trains in a loop."""
    problem = task("attention", frames=3, level="frame")
    assert stacks(problem, members(2)) == [[0], [1]]
    assert all(f.state for f in fit(problem, members(2, epochs=1)))


class Noisy(nn.Module):
    """A model with random layers of a kind."""

    def __init__(self, dropout: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.dropout, self.times = dropout, times
        self.head = nn.Linear(WIDTHS["audio"], CLASSES)

    def forward(self, batch: Batch) -> Output:
        """Drop, then map to logits."""
        x = batch["audio"].features.mean(1)
        for _ in range(self.times):
            x = self.dropout(x)
        return Output(self.head(x))


class TwoRates(nn.Module):
    """A model that drops at two rates."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.first, self.second = Dropout(rate), Dropout(0.7)
        self.hidden, self.head = nn.Linear(WIDTHS["audio"], 7), nn.Linear(7, CLASSES)

    def forward(self, batch: Batch) -> Output:
        """Drop twice on the way to logits."""
        hidden = torch.relu(self.hidden(self.first(batch["audio"].features.mean(1))))
        return Output(self.head(self.second(hidden)))


def test_a_model_may_drop_at_two_rates() -> None:
    """Each dropout keeps its own rate within a stack, and each member its own."""
    problem = replace(task(), build=lambda params: TwoRates(params["dropout"]))
    mixed = [replace(m, params={"dropout": rate}) for m, rate in zip(members(), (0.1, 0.3, 0.7), strict=True)]
    assert stacks(problem, mixed) == [[0, 1, 2]]
    assert_same(fit(problem, mixed), fit(problem, mixed, stack=False))


@pytest.mark.parametrize("model", ["attention", "attention-topn", "lf-dnn", "logreg", "mlp"])
def test_models_that_take_stacks_give_what_mapping_gives(model: str) -> None:
    """A model that says `stacks` gives the losses and predictions that `vmap` gives for it."""
    problem, several = task(model), members()
    found = []
    for by_itself in (True, False):
        stack = Stack(problem, several)
        assert stack.stacks
        stack.stacks = by_itself
        found.append((torch.tensor([stack.train_epoch() for _ in range(2)]), *stack.validation_logits()))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layer", "times"), [(nn.Dropout(0.5), 1), (Dropout(0.5), 2), (nn.RReLU(), 1)])
def test_foreign_randomness_is_not_stacked(layer: nn.Module, times: int) -> None:
    """A model whose noise we cannot draw for it trains in a loop, where seeds hold."""
    problem = replace(task(), build=lambda _: Noisy(layer, times))
    assert stacks(problem, members(2)) == [[0], [1]]


def test_no_dropout_is_a_stack_of_its_own() -> None:
    """Members without dropout draw no noise, so they are grouped apart from those that do."""
    mixed = [*members(2, params={"dropout": 0.0}), *members(2, params={"dropout": 0.5})]
    assert stacks(task(), mixed) == [[0, 1], [2, 3]]


def test_other_shapes_are_other_stacks() -> None:
    """Members of other widths or batch sizes are grouped apart; each result is at its place."""
    wide = members(2, params={"hidden": 6})
    all_members = [wide[0], *members(2), wide[1], *members(2, batch_size=4)]
    problem = task()
    assert stacks(problem, all_members) == [[0, 3], [1, 2], [4, 5]]
    fitted = fit(problem, all_members)
    assert [f.state["model.head.weight"].shape[1] for f in fitted] == [6, 8, 8, 6, 8, 8]


def test_a_loss_that_explodes_names_its_member() -> None:
    """One member's NaN is told by its name."""
    good, bad = members(2, epochs=20)
    bad = replace(bad, settings=replace(bad.settings, lr=1e30))
    with pytest.raises(Diverged, match="fold-1 became"):
        fit(task(), [good, bad])


def test_stacking_leaves_the_global_generator_alone() -> None:
    """A caller's random numbers do not depend on training."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fit(task(), members(2, epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("model", ["agt", "attention"])
def test_bfloat16_is_the_same_either_way_and_near_float32(model: str) -> None:
    """Products in bfloat16 train stacks as the loop, near float32 and not equal; validation is float32."""
    problem, several = task(model), members(2, epochs=1, lr=1e-3, precision="bfloat16")
    fitted = fit(problem, several)
    assert stacks(problem, several) == [[0, 1]]
    assert_same(fitted, fit(problem, several, stack=False), 1e-2)
    exact = fit(problem, members(2, epochs=1, lr=1e-3))
    assert_same(fitted, exact, 2e-2)
    assert fitted[0].history[0]["loss"] != exact[0].history[0]["loss"]
    assert all(value.dtype == torch.float32 for value in fitted[0].state.values())
    module = problem.module(several[0])
    module.load_state_dict(fitted[0].state)
    torch.testing.assert_close(logits_of(module, problem.features, several[0].valid), fitted[0].logits)


def test_precisions_do_not_share_a_stack() -> None:
    """Members of other precisions are grouped apart."""
    assert stacks(task(), [*members(2), *members(2, precision="bfloat16")]) == [[0, 1], [2, 3]]
