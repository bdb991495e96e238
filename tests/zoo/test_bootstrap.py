"""Scores from counts, and their bootstrap intervals."""

import numpy as np
import pytest

from mer_zoo.bootstrap import intervals, resample, scores_of
from mer_zoo.metrics import Scores, score

CLASSES = ("a", "b", "c", "never")


def sample(n: int, seed: int = 0, right: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and guesses of three of the four classes."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=(0.6, 0.3, 0.1))
    return label, np.where(rng.random(n) < right, label, rng.integers(0, 3, n))


def scored(label: np.ndarray, guess: np.ndarray) -> Scores:
    """Score guesses as certain predictions."""
    return score(label, np.eye(4)[guess], CLASSES)


def test_scores_from_counts_are_those_from_predictions() -> None:
    """The four scores computed from a confusion matrix are scikit-learn's, a missing class included."""
    found = scored(*sample(200))
    again = scores_of(np.array(found.confusion))
    for name in ("waf", "accuracy", "uar", "macro_f1"):
        assert float(again[name]) == pytest.approx(getattr(found, name), abs=1e-12)


def test_the_interval_is_scipys() -> None:
    """Drawing counts gives the percentile interval that drawing clips one by one gives."""
    from scipy.stats import bootstrap

    label, guess = sample(300)
    found = scored(label, guess)

    def waf(at: np.ndarray) -> float:
        counts = np.bincount(label[at] * 4 + guess[at], minlength=16).reshape(4, 4)
        return float(scores_of(counts)["waf"])

    theirs = bootstrap(
        (np.arange(300),), waf, vectorized=False, n_resamples=1500, method="percentile", random_state=0
    ).confidence_interval
    assert found.intervals["waf"] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 150 samples of 150 clips, the 95 % intervals hold the population's in 90 to 99 %."""
    population = np.array(scored(*sample(200_000)).confusion)[:3, :3]
    truth, share = scores_of(population), population.ravel() / population.sum()
    held = {"waf": 0, "uar": 0}
    for seed in range(150):
        counts = np.random.default_rng(seed).multinomial(150, share).reshape(3, 3)
        found = intervals(counts, resamples=400, seed=seed)
        for name in held:
            held[name] += found[name].low <= truth[name] <= found[name].high
    assert all(135 <= count <= 149 for count in held.values()), held


def test_intervals_are_seeded_and_narrow_with_clips() -> None:
    """The same counts have the same interval; a hundred times the clips, about a tenth of the width."""
    few, many = (np.array(scored(*sample(n)).confusion) for n in (100, 10_000))
    assert intervals(few) == intervals(few)
    assert intervals(few) != intervals(few, seed=1)
    widths = [found["waf"].high - found["waf"].low for found in (intervals(few), intervals(many))]
    assert 6 < widths[0] / widths[1] < 16


def test_one_clip_and_perfect_predictions() -> None:
    """What leaves nothing to chance has a point for an interval."""
    assert intervals(np.array([[1, 0], [0, 0]]))["waf"] == (1, 1)
    assert intervals(np.array([[0, 1], [0, 0]]))["uar"] == (0, 0)
    assert intervals(np.diag([5, 5]))["waf"] == pytest.approx((1, 1))


def test_draws_are_as_many_as_there_were() -> None:
    """Each resample has as many things, and none of a kind there is not."""
    drawn = resample(np.array([3, 0, 7]), resamples=50)
    assert drawn.shape == (50, 3)
    assert set(drawn.sum(1)) == {10}
    assert not drawn[:, 1].any()


def test_scores_carry_their_intervals_as_json() -> None:
    """The JSON of scores has the intervals; reading it back, also without them, gives the scores."""
    found = scored(*sample(80))
    document = found.to_json()
    assert document["intervals"]["waf"] == list(found.intervals["waf"])
    assert Scores.from_json(document) == found
    del document["intervals"]
    assert Scores.from_json(document) == found
