"""The experiments: lines measured by hand, and each experiment once on a small store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import NameTaken, UnknownName
from mer_zoo.ablate import ablate, rarest
from mer_zoo.data import Features, Table, load_features
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.experiments import FIGURE, Course, measure, set_exam
from mer_zoo.robustness import masked_out, noisy, removed, robustness
from mer_zoo.runs import find_run, list_runs
from mer_zoo.settings import Settings
from mer_zoo.sweep import read_thresholds, sweep_threshold
from mer_zoo.train import train
from mer_zoo.vote_shift import draw, vote_shift

QUICK = Settings(epochs=3, lr=0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> Store:
    """Return a store with the runs `all` and `ears`, and an audit layer of unlabelled clips."""
    store = toy(tmp_path_factory.mktemp("experiments") / "store")
    for name, features in (("all", None), ("ears", ["sound-UTT"])):
        train(store, "mlp", name=name, features=features, folds=2, params={"hidden": 8}, settings=QUICK)
    store.labels.add(
        LabelLayer.human("audit", ("angry", "happy", "sad"), {f"unlabeled-{i:02d}": "sad" for i in range(12)})
    )
    return store


def test_lines_are_measured_by_hand() -> None:
    """Means over seeds, the difference from the first line, and its paired interval, narrower than apart."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    good = np.where(rng.random((2, 200)) < 0.8, label, (label + 1) % 3)
    worse = np.where(rng.random(200) < 0.1, (good[0] + 1) % 3, good[0])[None]
    first, second = measure(label, {"good": good, "worse": worse}, 3, {"worse": {"kept": 3}})

    def waf(said: np.ndarray) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(label, said, average="weighted"))

    assert first.waf == pytest.approx(np.mean([waf(row) for row in good]))
    assert second.gain == pytest.approx(waf(worse[0]) - first.waf)
    assert (first.gain, first.gain_interval) == (0, (0, 0))
    assert first.waf_interval.low < first.waf < first.waf_interval.high
    gain, apart = second.gain_interval, second.waf_interval
    assert gain.low < second.gain < gain.high
    assert gain.high - gain.low < apart.high - apart.low + first.waf_interval.high - first.waf_interval.low
    assert (first.seeds, second.seeds, second.facts) == (2, 1, {"kept": 3})


def test_a_clip_somebody_cannot_decide_is_left_out_of_all() -> None:
    """Lines are compared on the same clips."""
    label = np.array([0, 1, 0, 1])
    first, second = measure(label, {"a": np.array([[0, 1, 0, 0]]), "b": np.array([[0, 1, 0, -1]])}, 2)
    assert first.waf == second.waf == 1
    with pytest.raises(ZooError, match="no clip is decided about"):
        measure(label, {"a": np.full((1, 4), -1)}, 2)


def features_of(rows: list[list[float]], length: list[int]) -> Features:
    """Return features of one modality beside one that is full."""
    table = Table(
        torch.tensor([*rows, [0.0] * len(rows[0])]),
        torch.tensor(np.cumsum([0, *length[:-1]])),
        torch.tensor(length),
    )
    other = Table(
        torch.ones(len(length) + 1, 1), torch.arange(len(length)), torch.ones(len(length), dtype=torch.int64)
    )
    return Features(tuple(map(str, range(len(length)))), {"audio": table, "text": other})


def test_noise_has_the_ratio_asked_for() -> None:
    """Noise has the signal's power over 10^(SNR / 10), feature by feature; the pad row stays zero."""
    rng = np.random.default_rng(0)
    rows = rng.normal(5, (1.0, 100.0), (4000, 2)).tolist()
    clean = features_of(rows, [1] * 4000)
    for snr in (10.0, 0.0):
        changed = noisy(clean, "audio", snr, 0).tables["audio"].rows
        noise = (changed - clean.tables["audio"].rows)[:-1]
        ratio = 10 * torch.log10(clean.tables["audio"].rows[:-1].var(0) / noise.var(0))
        assert ratio.tolist() == pytest.approx([snr, snr], abs=0.3)
        assert changed[-1].tolist() == [0, 0]
    again = noisy(clean, "audio", 10.0, 1)
    assert torch.equal(again.tables["text"].rows, clean.tables["text"].rows)
    assert not torch.equal(again.tables["audio"].rows, noisy(clean, "audio", 10.0, 2).tables["audio"].rows)


def test_masks_put_means_in_place() -> None:
    """A share of a clip's frames in a run, or of a lone vector's features, is the mean; the rest is not."""
    rows = [[float(i), float(-i), float(i * i), 1.0] for i in range(10)]
    clean = features_of(rows, [1, 8, 0, 1])
    changed = masked_out(clean, "audio", 0.5, 3).tables["audio"].rows
    mean = clean.tables["audio"].rows[:-1].mean(0)
    same = changed[:-1] == clean.tables["audio"].rows[:-1]
    frames = (~same[1:9]).any(1)
    assert frames.sum() == 4
    assert np.ptp(np.flatnonzero(frames.numpy())) == 3
    torch.testing.assert_close(changed[1:9][frames], mean.expand(4, 4))
    assert (changed[0] == mean).sum() >= 2
    assert same[0].sum() >= 2


def test_a_removed_modality_is_gone() -> None:
    """No clip has it, and the other modality is as it was."""
    gone = removed(features_of([[1.0], [2.0]], [1, 1]), "audio")
    assert gone.tables["audio"].length.tolist() == [0, 0]
    assert gone.present.all()


def test_robustness(trained: Store) -> None:
    """The clean line is the run's own score; every modality is noisy, masked and removed."""
    found = robustness(trained, "all", snrs=(0.0,), seeds=2)
    assert found.lines[0].waf == pytest.approx(evaluate(trained, "all").waf)
    assert [line.name for line in found.lines[1:4]] == [
        "audio, noise at 0 dB", "audio, 50% masked", "audio, removed",
    ]  # fmt: skip
    assert len(found.lines) == 1 + 3 * 3
    assert found.lines[1].seeds == 2
    bundle = trained.runs[found.record]
    assert bundle.attrs["kind"] == "robustness"
    assert bundle.parents == ("runs/all", "labels/gold")
    assert bundle.json("lines.json")["lines"][0]["name"] == "clean"
    assert bundle.files[FIGURE] > 5000
    assert found.record not in list_runs(trained)
    alone = robustness(trained, "ears", snrs=(), seeds=1)
    assert [line.name for line in alone.lines] == ["clean", "audio, 50% masked"]
    with pytest.raises(ZooError, match=r"is an? experiment"):
        find_run(trained, found.record)
    with pytest.raises(ZooError, match="none of the 1 clips has features"):
        robustness(trained, "all", judge="train")
    with pytest.raises(ZooError, match="a share between 0 and 1"):
        robustness(trained, "all", masked=1.0)


def test_robustness_hurts_where_the_signal_was(trained: Store) -> None:
    """Drowning the only modality in noise takes the score away."""
    clean, drowned, *_ = robustness(trained, "ears", snrs=(-40.0,), seeds=3).lines
    assert drowned.gain < -0.1 < clean.gain


def test_sweep(trained: Store) -> None:
    """A round and its runs for each threshold, with volume and precision; again, nothing is trained anew."""
    course = Course(name="sweep", folds=2, settings=QUICK)
    found = sweep_threshold(trained, course, (0.5, 0.4), ["all", "ears"], model="mlp", audit="audit")
    base, low, high = found.lines
    assert (base.name, low.name, high.name) == ("human labels only", "p > 0.4", "p > 0.5")
    layer = trained.labels["sweep-0.4"]
    assert low.facts["kept"] == layer.kept.sum() >= high.facts["kept"]
    known = [key for key in layer.keys[:12] if layer.kept[layer.row(key)]]
    assert low.facts["known"] == len(known)
    assert low.facts["precision"][0] == pytest.approx(np.mean([layer[key] == "sad" for key in known]))
    runs = list_runs(trained)
    again = sweep_threshold(trained, course, (0.5, 0.4), ["all", "ears"], model="mlp")
    assert list_runs(trained) == runs
    assert [line.waf for line in again.lines] == [line.waf for line in found.lines]
    with pytest.raises(NameTaken, match="made otherwise"):
        sweep_threshold(trained, course, (0.4,), ["all"], model="mlp")
    with pytest.raises(ZooError, match="trained otherwise"):
        sweep_threshold(trained, Course(name="sweep", folds=3, settings=QUICK), (0.4,), ["all"], model="mlp")
    nothing = sweep_threshold(trained, course, (1.0,), ["all"], model="mlp")
    assert len(nothing.lines) == 1
    assert "sure enough" in nothing.notices[0]
    for wrong in ((), (0.5, 0.5), (1.5,)):
        with pytest.raises(ZooError, match="between 0 and 1"):
            sweep_threshold(trained, course, wrong, ["all"])
    assert read_thresholds(["0.8", "0.95"]) == [0.8, 0.95]
    with pytest.raises(ZooError, match="not a threshold"):
        read_thresholds(["high"])


def test_ablate(trained: Store) -> None:
    """Every part is taken away once, and both votes are told; a swapped encoder adds a line."""
    course = Course(name="abl", folds=2, settings=Settings(epochs=1), features=("sound-UTT", "words-UTT"))
    found = ablate(trained, course, encoder_swap=["sound-FRA"])
    names = [line.name for line in found.lines]
    assert names[:5] == [
        "audio-guided", "equal modalities (guide none)", "without CBT", "without AMF",
        "attention (the baseline)",
    ]  # fmt: skip
    assert names[5] == "audio-guided, with sound-FRA"
    two = ", ".join(rarest(trained, "gold"))
    assert names[6:] == ["majority vote", f"weighted vote ({two} 2 times)"]
    majority, weighted = found.lines[6:]
    assert found.notices[0].startswith(f"{weighted.name} above majority vote: WAF ")
    assert f"{weighted.waf - majority.waf:+.4f}" in found.notices[0]
    assert find_run(trained, "abl.equal.s0").config.params["guide"] == "none"
    assert find_run(trained, "abl.agt-with-sound-FRA.s0").config.inputs.chosen["audio"].space == "sound-FRA"
    with pytest.raises(ZooError, match="reads audio already"):
        ablate(trained, course, encoder_swap=["sound-UTT"])
    with pytest.raises(ZooError, match="use 1 or more"):
        Course(name="x", seeds=0)


def test_runs_on_other_features_are_not_taken_for_these(trained: Store) -> None:
    """A name that is there already stands for its own features; other ones under it are refused."""
    course = Course(name="feat", folds=2, settings=QUICK, features=("sound-UTT",))
    first = sweep_threshold(trained, course, (0.4,), ["all"], model="mlp")
    assert sweep_threshold(trained, course, (0.4,), ["all"], model="mlp").lines == first.lines
    with pytest.raises(ZooError, match=r"'feat.human.s0' that was trained otherwise"):
        sweep_threshold(trained, replace(course, features=("face-UTT",)), (0.4,), ["all"], model="mlp")


@pytest.mark.parametrize(
    "wrong", [{"pseudo": "rund1"}, {"encoder_swap": ["sound-FR"]}, {"expert_classes": ["sda"]}]
)
def test_an_ablation_trains_nothing_for_a_wrong_name(trained: Store, wrong: dict[str, Any]) -> None:
    """What is needed only at the end is looked up at the beginning."""
    before = trained.commit
    with pytest.raises(UnknownName):
        ablate(trained, Course(name="wrong", folds=2, settings=QUICK), **wrong)
    assert trained.commit == before


@pytest.mark.parametrize(
    "wrong", [{"runs": ["al"]}, {"vote": "sofft"}, {"split": "unlabelled"}, {"audit": "audti"}]
)
def test_a_sweep_trains_nothing_for_a_wrong_name(trained: Store, wrong: dict[str, Any]) -> None:
    """Members, vote, split and audit layer are looked up before the first training."""
    before = trained.commit
    with pytest.raises(UnknownName):
        sweep_threshold(
            trained, Course(name="wrong", folds=2, settings=QUICK), (0.4,), **{"runs": ["all"], **wrong}
        )
    assert trained.commit == before


def test_one_layer_trains_and_another_judges(trained: Store) -> None:
    """The truth may lie in a layer of its own, which knows fewer classes and trains nothing."""
    gold, test = trained.labels["gold"], [c.key for c in trained.clips.select(split="test")]
    known = {key: gold[key] for key in test if gold[key] != "sad"}
    trained.labels.add(LabelLayer.human("judges", ("happy", "angry"), known))
    course = Course(name="sweep", folds=2, settings=QUICK, labels="gold", truth="judges")
    exam = set_exam(trained, course)
    assert (exam.labels, exam.truth, exam.classes) == ("gold", "judges", gold.classes)
    assert {key: exam.classes[i] for key, i in zip(exam.keys, exam.label, strict=True)} == known
    found = sweep_threshold(trained, course, (0.4,), ["all", "ears"], model="mlp")
    assert found.judged == "test (judges)"
    assert {"labels/gold", "labels/judges"} <= set(trained.runs[found.record].parents)
    assert find_run(trained, "sweep.human.s0").config.labels == "gold"


def test_drawn_clips_have_the_target_shares() -> None:
    """As many clips as the shares allow, each once; a class without clips is an error."""
    label = np.repeat([0, 1, 2], [60, 30, 10])
    at = draw(label, np.array([0.2, 0.3, 0.5]), np.random.default_rng(0), "abc")
    assert np.bincount(label[at]).tolist() == [4, 6, 10]
    assert len(set(at.tolist())) == 20
    with pytest.raises(ZooError, match="no clip of class 'c'"):
        draw(label[:90], np.array([0.2, 0.3, 0.5]), np.random.default_rng(0), "abc")


def test_vote_shift(trained: Store) -> None:
    """Each vote under each kind of shares, against the first vote of the same shares."""
    found = vote_shift(trained, ["all", "ears"], votes=("majority", "prior"), draws=4)
    assert [line.name for line in found.lines] == [
        f"{shares}: {vote}"
        for shares in ("as in training", "balanced", "shifted")
        for vote in ("majority", "prior")
    ]
    assert all(line.gain == 0 for line in found.lines[::2])
    assert found.lines[0].seeds == 4
    with pytest.raises(UnknownName, match="no vote named"):
        vote_shift(trained, ["all"], votes=("pryor",))
    with pytest.raises(ZooError, match="2 draws or more"):
        vote_shift(trained, ["all"], draws=1)


def test_frames_are_corrupted_as_frames(trained: Store) -> None:
    """Corruption of sequences keeps their lengths."""
    run = find_run(trained, "all")
    keys = [clip.key for clip in trained.clips.select(split="test")]
    data = load_features(trained, run.config.inputs, keys)
    for changed in (noisy(data, "audio", 5, 0), masked_out(data, "audio", 0.3, 0)):
        assert torch.equal(changed.tables["audio"].length, data.tables["audio"].length)
        assert torch.isfinite(changed.tables["audio"].rows).all()
