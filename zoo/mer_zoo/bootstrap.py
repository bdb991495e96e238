"""Scores from confusion counts, and how sure they are: a bootstrap over clips.

Drawing n clips with replacement and counting them is drawing the counts from a multinomial distribution, so
a whole bootstrap is one call of it however many clips there are. Light: numpy only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0


class Interval(NamedTuple):
    """The 95 % bootstrap interval of a score."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f}"


def weighted_f1(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """WAF from confusion counts `[..., C, C]` (rows = label): cheap enough for every epoch."""
    f1, support = _f1(confusion)
    share = support / np.maximum(support.sum(-1, keepdims=True), 1)
    waf: NDArray[np.float64] = (f1 * share).sum(-1)
    return waf


def scores_of(confusion: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return `waf`, `accuracy`, `uar` and `macro_f1`, each `[...]`, from counts `[..., C, C]` (rows = label).

    UAR and macro-F1 are over the classes that occur in the labels.
    """
    f1, support = _f1(confusion)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    occurs = support > 0
    classes = np.maximum(occurs.sum(-1), 1)
    return {
        "waf": weighted_f1(confusion),
        "accuracy": hits.sum(-1) / np.maximum(support.sum(-1), 1),
        "uar": (hits / np.maximum(support, 1)).sum(-1) / classes,
        "macro_f1": (f1 * occurs).sum(-1) / classes,
    }


def _f1(confusion: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, guessed = confusion.sum(-1), confusion.sum(-2)
    return 2 * hits / np.maximum(support + guessed, 1), support


def resample(counts: NDArray[Any], resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """Draw as many things as there are, with replacement, `resamples` times.

    Args:
        counts: int `[K]`, how many things there are of each kind; at least one thing.
        resamples: R.
        seed: Decides the draws.

    Returns:
        int64 `[R, K]`, how many of each kind were drawn.
    """
    total = int(counts.sum())
    return np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)


def confusions(drawn: NDArray[np.int64], place: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Add counts `[R, K]` up to confusions `[R, C, C]`; kind k counts in cell `place[k]`."""
    total = np.zeros((classes**2, len(drawn)), np.int64)
    np.add.at(total, place, drawn.T)
    return np.ascontiguousarray(total.T).reshape(-1, classes, classes)


def percentile(draws: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return the central range that holds `level` of the draws `[R]` (the percentile bootstrap)."""
    edge = 50 * (1 - level)
    low, high = np.percentile(draws, (edge, 100 - edge))
    return Interval(float(low), float(high))


def intervals(
    confusion: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Return the 95 % bootstrap interval over clips of each score of `scores_of`.

    Clips are drawn one by one, not by speaker and not by class: where clips of one speaker resemble each
    other, the truth is wider.

    Args:
        confusion: int `[C, C]`, rows = label; at least one clip.
        resamples: How many.
        seed: Decides them, so that the same scores always have the same interval.
    """
    counts = np.asarray(confusion)
    drawn = resample(counts.ravel(), resamples, seed).reshape(-1, *counts.shape)
    return {name: percentile(values) for name, values in scores_of(drawn).items()}


def to_json(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Return intervals as plain JSON values."""
    return {name: [interval.low, interval.high] for name, interval in found.items()}
