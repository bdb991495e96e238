"""Training members on plain arrays."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mer_featurestore import Ragged
from mer_zoo.contract import Output
from mer_zoo.data import Features, Table
from mer_zoo.errors import ZooError
from mer_zoo.fit import fit
from mer_zoo.registry import build_model, find_model
from mer_zoo.settings import Settings
from mer_zoo.training import (
    Diverged,
    Fitted,
    Member,
    Progress,
    Targets,
    Task,
    epoch_batches,
    loss_of,
    loss_targets,
    validate,
)

CLASSES = 3


def task(n: int = 40, model: str = "mlp", noise: float = 1.0) -> Task:
    """Return a small problem of two modalities that a model can learn."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % CLASSES
    tables = {}
    for name, width in (("audio", 5), ("video", 4)):
        rows = rng.normal(0, 2, (CLASSES, width))[label] + rng.normal(0, noise, (n, width))
        tables[name] = Table.pack(Ragged(rows.astype(np.float32), np.arange(n + 1)), np.arange(n), n)
    features = Features(tuple(map(str, range(n))), tables)
    card = find_model(model)
    targets = Targets(torch.eye(CLASSES)[label], torch.ones(n))
    return Task(features, targets, lambda p: build_model(card, features.widths, CLASSES, {"hidden": 8, **p}))


def member(n: int = 40, **options: object) -> Member:
    """Return a member that validates on every fourth clip."""
    every = torch.arange(n)
    settings = Settings(**{"epochs": 8, "batch_size": 16, **options})
    return Member(
        name="fold-0", train=every[every % 4 != 0], valid=every[every % 4 == 0], seed=3, settings=settings
    )


def test_it_learns_and_keeps_its_best_epoch() -> None:
    """WAF rises, and state and logits are those of the best epoch."""
    problem, one = task(), member(epochs=30, lr=1e-2)
    (fitted,) = fit(problem, [one])
    wafs = [h["waf"] for h in fitted.history]
    assert max(wafs) > 0.9
    assert wafs[fitted.best_epoch - 1] == max(wafs)
    module = problem.module(one)
    module.load_state_dict(fitted.state)
    logits = module.eval()(problem.features.batch(one.valid)).logits
    torch.testing.assert_close(logits, fitted.logits)


def test_a_seed_repeats_itself_whoever_trains_beside() -> None:
    """The same member gives the same weights alone, and among others; another seed gives others."""
    problem, one = task(), member()
    other = Member(name="b", train=one.train, valid=one.valid, seed=4, settings=one.settings)
    alone, among = fit(problem, [one])[0], fit(problem, [other, one])[1]
    for name, value in alone.state.items():
        torch.testing.assert_close(value, among.state[name], rtol=1e-4, atol=1e-5)
    assert fit(problem, [one])[0].history == alone.history
    assert fit(problem, [other])[0].history != alone.history


def test_training_leaves_the_global_generator_alone() -> None:
    """A caller's random numbers do not depend on whether something was trained in between."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fit(task(), [member(epochs=1)])
    assert torch.equal(torch.rand(3), expected)


def test_patience_stops() -> None:
    """With nothing to learn, training stops `patience` epochs behind the best WAF."""
    problem = task(noise=0.0)
    (fitted,) = fit(problem, [member(epochs=60, patience=3, lr=1e-2)])
    wafs = [h["waf"] for h in fitted.history]
    assert len(wafs) == wafs.index(max(wafs)) + 1 + 3


def test_of_equal_wafs_the_lower_loss_is_kept() -> None:
    """The snapshot follows the validation loss among equal WAFs; patience does not."""
    fitted = Fitted()
    kept = [fitted.note(e, 1.0, loss, 0.5) for e, loss in enumerate((0.9, 0.7, 0.8), 1)]
    assert kept == [True, True, False]
    assert (fitted.best_epoch, fitted.waited) == (2, 2)


def test_a_loss_that_explodes_is_told() -> None:
    """NaN raises an error that names the member, the epoch and the remedy."""
    with pytest.raises(Diverged, match=r"fold-0 became (nan|inf) in epoch \d+; lower --lr"):
        fit(task(), [member(lr=1e30, epochs=20)])


def test_validation_clips_decide_nothing_but_when_to_stop() -> None:
    """With other validation features the training losses are the same (no statistics leak)."""
    one = member(epochs=3)
    clean, dirty = task(), task()
    for table in dirty.features.tables.values():
        table.rows[one.valid] += 100.0
    losses = [[h["loss"] for h in fit(problem, [one])[0].history] for problem in (clean, dirty)]
    assert losses[0] == losses[1]


def test_every_clip_once_an_epoch() -> None:
    """Batches have one size, hold every clip once, and the filling counts nothing."""
    train = torch.arange(100, 137)
    index, real = epoch_batches(train, 8, torch.Generator().manual_seed(0))
    assert index.shape == real.shape == (5, 8)
    assert sorted(index[real.bool()].tolist()) == train.tolist()
    assert set(index[~real.bool()].tolist()) <= set(train.tolist())


def test_filling_counts_nothing() -> None:
    """A batch with weightless clips has the loss of the batch without them."""
    logits, target = torch.randn(6, 3), torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    weight = torch.tensor([1.0, 1, 1, 1, 0, 0])
    torch.testing.assert_close(
        loss_of(Output(logits), target, weight), F.cross_entropy(logits[:4], torch.tensor([0, 1, 2, 0]))
    )


def test_losses_are_torchs() -> None:
    """Class weights and smoothing give the cross-entropy torch gives; extra losses are added."""
    problem = task(37)
    one = member(37, class_weights=True, label_smoothing=0.1)
    target, weight = loss_targets(problem.targets, one)
    label = problem.targets.probs.argmax(1)
    counts = torch.bincount(label[one.train], minlength=CLASSES).float()
    expected_weight = counts.sum() / (CLASSES * counts)
    torch.testing.assert_close(weight, expected_weight[label])
    logits = torch.randn(37, CLASSES)
    torch.testing.assert_close(
        loss_of(Output(logits, {"extra": torch.tensor(0.25)}), target, torch.ones(37)),
        F.cross_entropy(logits, label, label_smoothing=0.1) + 0.25,
    )


def test_validation_is_waf_and_cross_entropy() -> None:
    """Per-epoch validation is the WAF of the metrics and torch's cross-entropy."""
    from mer_zoo.metrics import score

    logits, label = torch.randn(50, 3), torch.arange(50) % 3
    loss, waf = validate(logits, torch.eye(3)[label])
    assert loss == pytest.approx(float(F.cross_entropy(logits, label)))
    assert waf == pytest.approx(score(label.numpy(), logits.softmax(1).numpy(), "abc").waf)


def test_progress_adds_up() -> None:
    """Progress counts up to the total, early stops included."""
    told: list[Progress] = []
    fit(task(noise=0.0), [member(epochs=40, patience=2, lr=1e-2), member(epochs=2)], progress=told.append)
    done = [p.done for p in told]
    assert done == sorted(done)
    assert (told[-1].done, told[-1].total) == (42, 42)


def test_soft_targets_and_weights_count() -> None:
    """A clip of weight zero teaches nothing: its label does not matter."""
    one = member(epochs=3)
    results = []
    for label in (0, 1):
        problem = task()
        problem.targets.weight[one.train[0]] = 0.0
        problem.targets.probs[one.train[0]] = torch.eye(CLASSES)[label]
        results.append(fit(problem, [one])[0].history)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"lr": 0.0}, {"lr": math.nan}, {"weight_decay": -1.0},
    {"label_smoothing": 1.0}],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    """Settings that cannot be are refused."""
    with pytest.raises(ZooError):
        Settings(**wrong)
    assert Settings.from_json(Settings(epochs=3).to_json()) == Settings(epochs=3)


def test_statistics_are_fitted_once_per_training_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members with the same training part share the pass over the data, and none shares its buffers."""
    from mer_zoo import training

    real, calls = training.fit_statistics, []
    monkeypatch.setattr(training, "fit_statistics", lambda *a: calls.append(1) or real(*a))
    problem, one = task(), member()
    other = Member(name="b", train=one.train[:5], valid=one.valid, seed=3, settings=one.settings)
    modules = [problem.to("cpu").module(each) for each in (one, one, other)]
    assert len(calls) == 2
    first, second, third = (
        {name: b for name, b in module.named_buffers() if name.startswith(("mean_", "scale_"))}
        for module in modules
    )
    assert len(first) == 4
    for name, buffer in first.items():
        assert torch.equal(buffer, second[name])
        assert buffer.data_ptr() != second[name].data_ptr()
    assert any(not torch.equal(buffer, third[name]) for name, buffer in first.items())
