"""How well one view of a clip finds the other: retrieval at k, with chance and bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.wording import plural
from mer_zoo.bootstrap import RESAMPLES, SEED, percentile, resample

AT = (1, 5, 10)
_CHUNK = 1024
_EXACT = 10_000
_CLOSE = 1e-6  # cosines nearer than this are equal


class Rate(NamedTuple):
    """A mean over clips and its 95 % bootstrap interval over clips."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Found:
    """What each of n clips finds among the n candidates, one value a clip.

    Attributes:
        name: What was compared with what.
        hit: k -> float64 `[n]`, whether its own candidate is among the k nearest; where several are equally
            near, how probable that is, so that features which say nothing score as chance does.
        ahead: float64 `[n]`, share of the other candidates that its own is nearer than; 0.5 by chance.
        same: k -> float64 `[m]`, share of its own class among the k nearest others, of the m clips whose
            class is known; empty without classes.
    """

    name: str
    hit: Mapping[int, NDArray[np.float64]]
    ahead: NDArray[np.float64]
    same: Mapping[int, NDArray[np.float64]]

    def rates(self) -> dict[str, Rate]:
        """Return `R@k`, `ahead` and, with classes, `class@k`."""
        return {name: rate(values) for name, values in self.values().items()}

    def above(self, other: "Found") -> dict[str, Rate]:
        """Return how much better it is than another way on the same clips, with paired intervals."""
        theirs = other.values()
        return {name: rate(values - theirs[name]) for name, values in self.values().items()}

    def values(self) -> dict[str, NDArray[np.float64]]:
        """Return each clip's values by the names of `rates`."""
        hits = {f"R@{k}": values for k, values in self.hit.items()}
        return {**hits, "ahead": self.ahead, **{f"class@{k}": values for k, values in self.same.items()}}


def rate(values: NDArray[np.float64]) -> Rate:
    """Return the mean of n values with its 95 % bootstrap interval."""
    if not len(values):
        return Rate(float("nan"), float("nan"), float("nan"))
    digits = 9 if len(values) <= _EXACT else 4  # what is drawn from stays small for very many clips
    kinds, counts = np.unique(np.round(values, digits), return_counts=True)
    drawn = resample(counts, RESAMPLES, SEED) @ kinds / len(values)
    return Rate(float(values.mean()), *percentile(drawn))


def retrieve(
    name: str,
    query: NDArray[np.floating],
    gallery: NDArray[np.floating],
    classes: Sequence[str | None] | None = None,
    at: Sequence[int] = AT,
) -> Found:
    """Let each row of a view find its clip's row in the other view, by cosine.

    Args:
        name: What is compared.
        query: `[n, D]`, n > 1.
        gallery: `[n, D]`; row i belongs to the clip of query i.
        classes: Of each clip; None where it is not known.
        at: Values of k.
    """
    query, gallery, n = _normal(query), _normal(gallery), len(query)
    known = np.array([c is not None for c in classes or [None] * n])
    label = np.unique([str(c) for c in classes or [None] * n], return_inverse=True)[1]
    hit: dict[int, list[NDArray[np.float64]]] = {k: [] for k in at}
    same: dict[int, list[NDArray[np.float64]]] = {k: [] for k in at}
    ahead = []
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        near = query[rows] @ gallery.T
        own = near[np.arange(len(rows)), rows][:, None]
        nearer, ties = (near > own + _CLOSE).sum(1), (np.abs(near - own) <= _CLOSE).sum(1) - 1
        ahead.append(1 - (nearer + ties / 2) / (n - 1))
        for k in at:
            hit[k].append(np.clip((k - nearer) / (ties + 1), 0, 1))
        near[np.arange(len(rows)), rows] = -np.inf
        near[:, ~known] = -np.inf
        for k, values in _same(near, label, rows, at).items():
            same[k].append(values[known[rows]])
    one = {k: np.concatenate(values) for k, values in hit.items()}
    kin = {k: np.concatenate(values) for k, values in same.items()} if known.sum() > 1 else {}
    return Found(name, one, np.concatenate(ahead), kin)


def chance(n: int, classes: Sequence[str | None] | None = None, at: Sequence[int] = AT) -> dict[str, float]:
    """Return what guessing scores among n candidates, by the names of `Found.rates`."""
    expected = {f"R@{k}": min(1.0, k / n) for k in at} | {"ahead": 0.5}
    known = [c for c in classes or [] if c is not None]
    if len(known) > 1:
        counts = np.unique(np.array(known), return_counts=True)[1]
        share = float((counts * (counts - 1)).sum() / (len(known) * (len(known) - 1)))
        expected |= {f"class@{k}": share for k in at}
    return expected


def few(n: int, at: Sequence[int] = AT) -> list[str]:
    """Say which `R@k` are 1 for anybody, because there are no more than k candidates."""
    sure = [f"R@{k}" for k in at if k >= n]
    if not sure:
        return []
    told = f"only {plural(n, 'held-out clip')}: {' and '.join(sure)} cannot be below 1, which is chance"
    return [f"{told}; read the others, or hold out more clips"]


def oracle(classes: Sequence[str], at: Sequence[int] = AT) -> dict[str, float]:
    """Return the `R@k` of somebody who knows every clip's class and nothing else."""
    label = np.unique(np.array(classes), return_inverse=True)[1]
    size = np.bincount(label)[label]
    return {f"R@{k}": float(np.minimum(1.0, k / size).mean()) for k in at}


def mean_of(name: str, found: Sequence[Found]) -> Found:
    """Return each clip's mean over several ways, such as random projections."""
    hit = {k: np.mean([f.hit[k] for f in found], axis=0) for k in found[0].hit}
    same = {k: np.mean([f.same[k] for f in found], axis=0) for k in found[0].same}
    return Found(name, hit, np.mean([f.ahead for f in found], axis=0), same)


def ahead(query: NDArray[np.floating], gallery: NDArray[np.floating]) -> float:
    """Return the mean of `Found.ahead` alone."""
    return float(retrieve("", query, gallery, at=()).ahead.mean())


def to_json(rates: Mapping[str, Rate]) -> dict[str, Any]:
    """Return rates as plain JSON values, `[value, low, high]`."""
    return {name: list(values) for name, values in rates.items()}


def _same(
    near: NDArray[np.floating], label: NDArray[np.integer], rows: NDArray[np.integer], at: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """Return the share of the own class among the k nearest, by k, of those with a finite nearness."""
    most = int(min(max(at, default=0), np.isfinite(near).sum(1).min()))
    if most < 1:
        return {k: np.zeros(len(rows)) for k in at}
    first = np.argpartition(-near, most - 1, axis=1)[:, :most]
    order = np.take_along_axis(-near, first, 1).argsort(axis=1, kind="stable")
    alike = label[np.take_along_axis(first, order, 1)] == label[rows][:, None]
    return {k: alike[:, : min(k, most)].mean(axis=1) for k in at}


def _normal(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    return unit
