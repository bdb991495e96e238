"""Comparing runs clip by clip."""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import UnknownName
from mer_zoo.compare import compare, differences, mcnemar
from mer_zoo.errors import ZooError
from mer_zoo.metrics import score
from mer_zoo.predict import predict
from mer_zoo.runs import find_run, list_runs
from mer_zoo.settings import Settings
from mer_zoo.train import train

QUICK = Settings(epochs=5, lr=1e-2)
SMALL = {"hidden": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: object) -> Store:
    """Return a store with a run `fused` of three modalities and `heard` of audio alone."""
    store = toy(tmp_path_factory.mktemp("compare") / "store")  # type: ignore[operator]  # the fixture's function
    train(store, "mlp", folds=2, params=SMALL, settings=QUICK, name="fused")
    train(store, "mlp", features=["sound-UTT"], folds=2, params=SMALL, settings=QUICK, name="heard")
    return store


def pair(n: int, right_a: float, right_b: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and what two runs say that are right as often as told."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    said = [np.where(rng.random(n) < right, label, rng.integers(0, 3, n)) for right in (right_a, right_b)]
    return label, said[0], said[1]


def test_differences_are_those_of_the_scores() -> None:
    """Without resampling noise: each run's score is that of `score`, and the difference is b - a."""
    label, a, b = pair(120, 0.5, 0.7, 0)
    found = differences(label, a, b, 3)
    for name in ("waf", "uar", "accuracy", "macro_f1"):
        scores = [getattr(score(label, np.eye(3)[said], "xyz"), name) for said in (a, b)]
        assert (found[name].a, found[name].b) == pytest.approx(scores)
        assert found[name].value == pytest.approx(scores[1] - scores[0])
        low, high = found[name].interval
        assert low < found[name].value < high


def test_the_paired_interval_is_that_of_drawing_clips() -> None:
    """Drawing counts of (label, a, b) gives the interval that drawing clips one by one gives."""
    label, a, b = pair(200, 0.5, 0.6, 1)
    rng, draws = np.random.default_rng(5), []
    for _ in range(3000):
        at = rng.integers(0, 200, 200)
        draws.append((b[at] == label[at]).mean() - (a[at] == label[at]).mean())
    expected = np.percentile(draws, (2.5, 97.5))
    assert differences(label, a, b, 3)["accuracy"].interval == pytest.approx(expected, abs=0.012)


def test_equal_runs_are_rarely_called_different() -> None:
    """Of 100 pairs of equally good runs about 5 have p < 0.05; a clearly better one nearly always."""
    equal = [differences(*pair(150, 0.6, 0.6, s), 3, resamples=400)["waf"].p < 0.05 for s in range(100)]
    better = [differences(*pair(150, 0.5, 0.8, s), 3, resamples=400)["waf"].p < 0.05 for s in range(20)]
    assert sum(equal) <= 12
    assert sum(better) >= 18


def test_a_run_compared_with_its_copy() -> None:
    """No difference has an interval of nothing and p = 1."""
    label, a, _ = pair(50, 0.6, 0.6, 2)
    found = differences(label, a, a, 3)["waf"]
    assert (found.value, found.interval, found.p) == (0, (0, 0), 1)
    assert mcnemar(a == label, a == label) == 1


def test_mcnemar_is_the_binomial_sum() -> None:
    """Of 12 discordant clips, 2 for one and 10 for the other: p = 2 P(X <= 2), X ~ Bin(12, 1/2)."""
    a = np.array([True] * 2 + [False] * 10 + [True] * 7)
    b = np.array([False] * 2 + [True] * 10 + [True] * 7)
    assert mcnemar(a, b) == pytest.approx(2 * sum(comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_out_of_fold_by_default_and_nothing_is_written(trained: Store) -> None:
    """Both runs' out-of-fold predictions of the clips both have are compared, without a commit."""
    before = trained.commit
    found = compare(trained, "heard", "fused")
    assert (found.on, found.record, trained.commit) == ("out-of-fold", "", before)
    heard, fused = (find_run(trained, name).predictions for name in ("heard", "fused"))
    assert found.n == len(set(heard.keys) & set(fused.keys)) < len(fused.keys)
    assert found.left_out == len(set(heard.keys) ^ set(fused.keys))
    truth = trained.labels["gold"]
    right = dict(zip(heard.keys, heard.labels, strict=True))
    both = [key for key in heard.keys if key in fused.keys]
    assert found.scores["accuracy"].a == np.mean([right[key] == truth[key] for key in both])
    assert sum(found.table.values()) == found.n
    assert found.table["b"] - found.table["a"] == pytest.approx(found.scores["accuracy"].value * found.n)


def test_a_split_is_on_record(trained: Store) -> None:
    """Comparing on test clips leaves a record in the journal with both runs as parents, and is no run."""
    runs = list_runs(trained)
    found = compare(trained, "heard", "fused", split="test", command="typed")
    predicted = [predict(trained, name, "test").keys for name in ("heard", "fused")]
    assert found.n == len(set(predicted[0]) & set(predicted[1]))
    record = trained.runs[found.record]
    assert set(record.parents) == {"runs/heard", "runs/fused", "labels/gold"}
    assert record.json("comparison.json")["scores"]["waf"]["b"] == found.scores["waf"].b
    assert next(iter(trained.log(1))).command == "typed"
    assert list_runs(trained) == runs
    with pytest.raises(ZooError, match="a comparison of runs; name the run itself: heard or fused"):
        find_run(trained, found.record)
    assert compare(trained, "heard", "fused", split="test").scores == found.scores


def test_other_labels_may_decide(trained: Store) -> None:
    """With `labels` the clips it has are compared, matched by class name."""
    if "truth" not in trained.labels:
        trained.labels.add(
            LabelLayer.human("truth", ("sad", "happy", "angry"), {"train-00": "sad", "test-01": "sad"})
        )
    found = compare(trained, "heard", "fused", labels="truth")
    assert (found.n, found.labels) == (1, "truth")
    right = find_run(trained, "heard").predictions
    said = right.labels[right.keys.index("train-00")]
    assert found.scores["accuracy"].a == float(said == "sad")


def test_folds_that_differ_are_told(trained: Store) -> None:
    """Out-of-fold predictions of runs with other folds are compared with a notice."""
    train(trained, "mlp", folds=4, params=SMALL, settings=Settings(epochs=1), name="four")
    assert any("different folds" in notice for notice in compare(trained, "fused", "four").notices)
    assert compare(trained, "fused", "heard").notices == ()


def test_what_cannot_be_compared(trained: Store, tmp_path: Path) -> None:
    """One run twice, an unknown one, other classes, or no shared clip: each is one error with a remedy."""
    with pytest.raises(ZooError, match="compared with itself; name two runs"):
        compare(trained, "heard", "heard")
    with pytest.raises(UnknownName, match="did you mean 'heard'"):
        compare(trained, "fused", "herd")
    run = find_run(trained, "heard")
    run.__dict__["config"] = replace(run.config, classes=("angry", "happy", "bored"))
    with pytest.raises(ZooError, match="knows the classes"):
        compare(trained, "fused", run)
    if "elsewhere" not in trained.labels:
        trained.labels.add(LabelLayer.human("elsewhere", ("sad", "happy"), {"test-00": "sad"}))
    with pytest.raises(ZooError, match="share no clip with a human label in 'elsewhere' out of fold"):
        compare(trained, "heard", "fused", labels="elsewhere")
    with pytest.raises(ZooError, match="no clip of split 'train' has a human label"):
        compare(trained, "heard", "fused", labels="elsewhere", split="train")


def test_a_clip_that_moved_to_the_test_split_is_sealed(store: Store) -> None:
    """Out of fold, clips that are test clips by now are not compared."""
    for name in ("x", "y"):
        train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1), name=name)
    before = compare(store, "x", "y").n
    store.clips.add([replace(store.clips["train-00"], split="test")], update=True)
    assert compare(store, "x", "y").n == before - 1


def test_copies_of_training_clips_are_told(store: Store) -> None:
    """Comparing and evaluating on clips with the content of training clips says so."""
    from mer_zoo.evaluate import evaluate

    same = {"content_hash": "c" * 64}
    store.clips.add([replace(store.clips[key], **same) for key in ("train-00", "test-00")], update=True)
    for name in ("x", "y"):
        train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1), name=name)
    told = "1 clip of these is a copy of clips x was trained on (test-00)"
    assert told in compare(store, "x", "y", split="test").notices
    assert evaluate(store, "x").notices == (told,)
    assert isinstance(store.clips["test-00"], Clip)
