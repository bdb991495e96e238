"""What a loop of self-training tells: a line for every stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_zoo.bootstrap import Interval
from mer_zoo.proportions import wilson
from mer_zoo.trainset import HUMAN

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.resolve import Resolved


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What a round of pseudo-labels holds.

    Attributes:
        kept: Clips that were sure enough.
        judged: Clips that were voted on.
        counts: Kept clips per class.
        estimated: Per class, the mean probability of the label over kept clips: their precision, if members
            are calibrated.
        measured: Per class, kept clips that the audit layer knows, and how many of these are right.
        flips: Clips whose pseudo-label is another than in the round before; None in the first.
    """

    kept: int
    judged: int
    counts: Mapping[str, int]
    estimated: Mapping[str, float]
    measured: Mapping[str, tuple[int, int]]
    flips: int | None

    @property
    def precision(self) -> tuple[float, Interval] | None:
        """Measured precision over all classes with its 95 % interval; None without audit."""
        known = sum(n for n, _ in self.measured.values())
        right = sum(r for _, r in self.measured.values())
        return (right / known, wilson(right, known)) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        precision = self.precision
        return {
            "kept": self.kept,
            "judged": self.judged,
            "counts": dict(self.counts),
            "estimated": dict(self.estimated),
            "measured": {c: {"known": n, "right": r} for c, (n, r) in self.measured.items()},
            "precision": None if precision is None else [precision[0], *precision[1]],
            "flips": self.flips,
        }


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One line of the loop's table: a layer and what training on it gave.

    Attributes:
        number: 0 for the human labels alone.
        layer: What was trained on.
        labelled: Its pseudo-labels; None for the human labels.
        runs: Trained on it.
        waf: Of the members' mean probabilities, out of fold, on human-labelled clips.
        waf_interval: 95 % bootstrap interval over clips.
        uar: Likewise.
        uar_interval: Likewise.
    """

    number: int
    layer: str
    labelled: Labelled | None
    runs: tuple[str, ...]
    waf: float
    waf_interval: Interval
    uar: float
    uar_interval: Interval

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "number": self.number,
            "layer": self.layer,
            "runs": list(self.runs),
            "waf": [self.waf, *self.waf_interval],
            "uar": [self.uar, *self.uar_interval],
            **({} if self.labelled is None else self.labelled.to_json()),
        }


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop that came to its end.

    Attributes:
        name: Of the loop.
        stages: Its table.
        stopped: Why it ended.
    """

    name: str
    stages: tuple[Stage, ...]
    stopped: str

    @property
    def best(self) -> Stage:
        """The stage with the highest out-of-fold WAF, the first of equals."""
        return max(self.stages, key=lambda stage: stage.waf)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        stages = [stage.to_json() for stage in self.stages]
        return {"loop": self.name, "stopped": self.stopped, "best": self.best.number, "stages": stages}


def describe(store: "Store", name: str, before: str | None, truth: "Resolved | None") -> Labelled:
    """Count what a layer of pseudo-labels holds.

    Args:
        store: The store.
        name: Of the layer.
        before: The round before; None for the first.
        truth: What an audit layer knows.
    """
    layer = store.labels[name]
    rows = np.flatnonzero(layer.kept)
    label = layer.label[rows]
    sure = layer.probs[rows, label]
    estimated, measured = {}, {}
    for c, of in enumerate(layer.classes):
        mine = label == c
        if mine.any():
            estimated[of] = float(sure[mine].mean(dtype=np.float64))
        keys = [layer.keys[i] for i in rows[mine]]
        right = [truth[key] == of for key in keys if truth and _knows(truth, key)]
        if right:
            measured[of] = (len(right), sum(right))
    return Labelled(
        kept=len(rows),
        judged=len(layer),
        counts=layer.counts(),
        estimated=estimated,
        measured=measured,
        flips=len(store.labels.diff(before, name).flips) if before else None,
    )


def _knows(truth: "Resolved", key: str) -> bool:
    return key in truth and truth.source[truth.row(key)] == HUMAN
