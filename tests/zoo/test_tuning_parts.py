"""What is decided before a tuning: who learns from what, in which order, and what is kept of work begun."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mer_featurestore import Clip
from mer_plugins.errors import ClipError
from mer_zoo.errors import ZooError
from mer_zoo.trainset import TrainSet
from mer_zoo.tuning.batches import epoch_order
from mer_zoo.tuning.history import best, epochs_of, is_over, last_checkpoint, waited
from mer_zoo.tuning.media import Media
from mer_zoo.tuning.model import Head
from mer_zoo.tuning.parts import ALL, check_classes, divide
from mer_zoo.tuning.selection import read_layers
from mer_zoo.tuning.settings import TuneSettings
from mer_zoo.tuning.work import Work

CLASSES = ("happy", "sad")


def chosen(speakers: int = 6, each: int = 4, pseudo: int = 3) -> TrainSet:
    """Return a training set: `each` clips per speaker, classes in turn, and pseudo-labelled ones besides."""
    clips = [
        Clip(key=f"s{s}-{i}", speaker=f"s{s}", split="train") for s in range(speakers) for i in range(each)
    ]
    clips += [Clip(key=f"u{i}", speaker="u", split="unlabeled") for i in range(pseudo)]
    label = np.array([i % 2 for i in range(len(clips))], np.int64)
    human = np.arange(len(clips)) < speakers * each
    probs = np.eye(2, dtype=np.float32)[label]
    return TrainSet("gold", CLASSES, tuple(clips), label, probs, probs.max(1), human)


def test_no_fold_learns_from_or_stops_by_what_it_holds_out() -> None:
    """Per fold, held-out, validation and training clips share no speaker; together they are all clips."""
    data = chosen()
    parts = divide(data, folds=3, all_data=True, seed=0, group_by="auto")
    assert [part.name for part in parts.parts] == ["fold-0", "fold-1", "fold-2", ALL]
    speaker = np.array([clip.speaker for clip in data.clips])
    for part in parts.parts[:3]:
        sides = [set(speaker[rows]) for rows in (part.train, part.valid, part.held)]
        assert not sides[0] & (sides[1] | sides[2])
        assert not sides[1] & sides[2]
        assert sorted([*part.train, *part.valid, *part.held]) == list(range(len(data.clips)))
    held = np.concatenate([part.held for part in parts.parts])
    assert sorted(held) == np.flatnonzero(data.human).tolist()
    assert {data.clips[i].key: k for k in range(3) for i in parts.parts[k].held} == parts.folds


def test_pseudo_labels_train_everywhere_and_validate_nowhere() -> None:
    """Pseudo-labelled clips are in every training part, in no validation and no held-out part, in no fold."""
    data = chosen()
    pseudo = set(np.flatnonzero(~data.human).tolist())
    for folds in (0, 3):
        parts = divide(data, folds=folds, all_data=True, seed=0, group_by="auto")
        for part in parts.parts:
            assert pseudo <= set(part.train.tolist())
            assert not pseudo & {*part.valid.tolist(), *part.held.tolist()}
        assert parts.folds is None or not {data.clips[i].key for i in pseudo} & set(parts.folds)


@pytest.mark.parametrize(
    ("folds", "speakers", "message"),
    [(2, 6, "with 2 folds"), (3, 2, "only 2 folds"), (1, 6, "with 1 folds")],
)
def test_too_few_folds_are_refused(folds: int, speakers: int, message: str) -> None:
    """Fewer than three folds, asked for or possible, leave nothing to stop by."""
    with pytest.raises(ZooError, match=message):
        divide(chosen(speakers), folds=folds, all_data=True, seed=0, group_by="auto")


def test_a_training_part_without_a_class_is_refused() -> None:
    """A class of one speaker alone cannot be learned by the fold that holds this speaker out."""
    data = chosen(pseudo=0)
    label = np.array([int(clip.speaker == "s0") for clip in data.clips], np.int64)
    with pytest.raises(ZooError, match="has no clip of class 'sad'"):
        divide(dataclasses.replace(data, label=label), folds=3, all_data=True, seed=0, group_by="auto")


def test_validation_of_one_class_is_refused() -> None:
    """Clips that are all of one class cannot say when to stop."""
    data = chosen(pseudo=0)
    label = np.array([int(clip.key in ("s0-0", "s1-0", "s2-0")) for clip in data.clips], np.int64)
    with pytest.raises(ZooError, match="would decide when"):
        divide(dataclasses.replace(data, label=label), folds=6, all_data=True, seed=0, group_by="auto")


def test_a_class_that_is_gone_is_named() -> None:
    """When no usable clip of a class is left, the error names it and why clips were left out."""
    data = chosen()
    happy = data.take(data.label == 0)
    with pytest.raises(ZooError, match=r"class 'sad' \(k: no audio\)"):
        check_classes(happy, data.label.tolist(), {"k": "no audio"})
    with pytest.raises(ZooError, match="nothing to tell apart"):
        check_classes(happy, happy.label.tolist(), {})


def test_an_epoch_has_every_clip_once_and_repeats_itself() -> None:
    """Batches hold each clip once, are of like cost, differ between epochs and not between runs."""
    rows, cost = np.arange(3, 70), np.random.default_rng(0).random(70)
    first = epoch_order(rows, cost, 8, seed=1, epoch=0)
    assert sorted(i for batch in first for i in batch) == rows.tolist()
    assert {len(batch) for batch in first} <= {8, 67 % 8}
    assert first == epoch_order(rows, cost, 8, seed=1, epoch=0)
    assert first != epoch_order(rows, cost, 8, seed=1, epoch=1)
    spread = [np.ptp(cost[batch]) for batch in first]
    assert np.mean(spread) < np.ptp(cost) / 4


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_the_head_begins_as_the_logistic_regression_of_the_frozen_rows(pool: str) -> None:
    """Before training it decides as scikit-learn's does (C = 0.01, weighted), whatever the scales."""
    random = np.random.default_rng(0)
    label = random.integers(0, 3, 60)
    scales = 10.0 ** np.arange(-2, 3)
    x = ((random.normal(size=(60, 5)) + random.normal(size=(3, 5))[label] * 2) * scales).astype(np.float32)
    weight = random.random(60).astype(np.float32)
    weight *= 60 / weight.sum()
    head = Head(5, 3, pool, 0.5).eval()
    head.begin(torch.from_numpy(x), torch.eye(3)[label], torch.from_numpy(weight))
    z = (x - x.mean(0)) / x.std(0)
    known = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(z, label, sample_weight=weight)
    with torch.no_grad():
        # Rows whose mean the clip's vector is: pooling begins as the mean, attention too.
        rows = [torch.from_numpy(np.stack([one - 1, one + 1])) for one in x]
        said = head(rows).softmax(-1).numpy()
    assert np.abs(said - known.predict_proba(z)).max() < 1e-3


class _Reader:
    """Prepares a clip as ten numbers, counting how often; one cannot be read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def prepare(self, clip: Clip) -> np.ndarray:
        self.read.append(clip.key)
        if clip.key == "s0-1":
            raise ClipError("torn")
        return np.full(10, int(clip.key[1]), np.float32)

    def cost(self, prepared: np.ndarray) -> float:
        return float(prepared[0])


def test_what_does_not_fit_into_memory_is_decoded_again() -> None:
    """Inputs come in the order asked for, from memory as far as they fit, and a broken clip is told."""
    reader, clips = _Reader(), chosen(pseudo=0).clips[:8]
    media = Media(reader, clips, memory=3 * 40, workers=1)
    media.read()
    assert media.kept == 3
    assert media.reasons == {"s0-1": "torn"}
    media.only(np.array([clip.key not in media.reasons for clip in clips]))
    reader.read.clear()
    got = [int(x[0]) for x in media.stream([6, 0, 5, 1])]
    assert got == [1, 0, 1, 0]
    assert reader.read == ["s1-3", "s1-2"]
    assert media.cost.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_work_goes_on_with_the_same_plan_only(tmp_path: Path) -> None:
    """A folder with something done in it refuses another plan and shows why; `restart` empties it."""
    work = Work(tmp_path / "w")
    with work.held():
        assert not work.begin({"a": {"lr": 1}})
        assert not work.begin({"a": {"lr": 2}})  # nothing was done about the first
        with work.finishing("one") as folder:
            (folder / "x").write_text("x")
        assert work.begin({"a": {"lr": 2}})
        with pytest.raises(ZooError, match=r"a\.lr was 2 and is 3"):
            work.begin({"a": {"lr": 3}})
        assert (work.done("one") / "x").exists()
        assert not work.begin({"a": {"lr": 3}}, restart=True)
        assert work.done("one") is None


def test_nothing_of_somebody_else_is_deleted(tmp_path: Path) -> None:
    """A work folder that has other things in it keeps them; one that has not is gone in the end."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.tex").write_text("mine")
    for folder in ("w", "empty"):
        work = Work(tmp_path / folder)
        with work.held():
            work.begin({"a": 1}, restart=True)
            with work.finishing("one") as made:
                (made / "x").write_text("x")
            work.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_tune_in_one_folder(tmp_path: Path) -> None:
    """While one holds the folder, another is refused."""
    work = Work(tmp_path / "w")
    with work.held(), pytest.raises(ZooError, match="another process"), Work(tmp_path / "w").held():
        pass
    with Work(tmp_path / "w").held():
        pass


def test_a_part_counts_when_it_is_whole(tmp_path: Path) -> None:
    """A part whose files were not all written is not done."""
    work = Work(tmp_path / "w")
    with work.held():
        work.begin({})
        with pytest.raises(ZeroDivisionError), work.finishing("one") as folder:
            (folder / "x").write_text(str(1 // 0))
        assert work.done("one") is None


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The newest checkpoint whose state was written whole is taken; others are deleted."""
    for step, text in ((3, '{"global_step": 3}'), (12, '{"global_step": 12}'), (20, '{"global')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-30").mkdir()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-12"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "checkpoint-12"}


def test_patience_counts_epochs_without_a_higher_score() -> None:
    """A loss that creeps down is no reason to go on; of equal scores the lower loss is kept."""
    log = [
        {"epoch": 1.0, "loss": 2.0},
        {"epoch": 1.0, "eval_choice": 0.5 - 9e-7, "eval_uar": 0.5},
        {"epoch": 2.0, "eval_choice": 0.7 - 8e-7, "eval_uar": 0.7},
        {"epoch": 3.0, "eval_choice": 0.7 - 5e-7, "eval_uar": 0.7},
        {"epoch": 4.0, "eval_choice": 0.6, "eval_uar": 0.6},
    ]
    epochs = epochs_of(log)
    assert [epoch["uar"] for epoch in epochs] == [0.5, 0.7, 0.7, 0.6]
    assert (best(epochs), waited(epochs)) == (3, 2)
    state = json.loads(json.dumps({"epoch": 4.0, "log_history": log}))
    assert is_over(state, TuneSettings(patience=2, epochs=9), None)
    assert not is_over(state, TuneSettings(patience=3, epochs=9), None)
    assert is_over(state, TuneSettings(patience=3, epochs=4), None)
    assert is_over(state, TuneSettings(patience=3, epochs=9), 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"}, {"pool": "max"}, {"lr": 0.0}, {"rank": 0}, {"warmup": 1.0}, {"most": 0.0},
        {"label_smoothing": -0.1}, {"weight_decay": -1.0}, {"precision": "int8"}, {"metric": "loss"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    """Every setting that makes no sense is refused by name before anything is loaded."""
    with pytest.raises(ZooError):
        TuneSettings(**wrong)


def test_layers_are_one_or_a_band() -> None:
    """`16-21` is six layers, `5` is one, anything else is refused."""
    assert read_layers("16-21") == (16, 17, 18, 19, 20, 21)
    assert read_layers("5") == (5,)
    for text in ("5-3", "a", "1,2", "", "-3"):
        with pytest.raises(ZooError, match="cannot read the layers"):
            read_layers(text)
