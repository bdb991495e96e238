"""What a linear classifier makes of one space: the yardstick for anything that changes features."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.bootstrap import Interval, scores_of
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Line, measure
from mer_zoo.probing.data import Course, collect, default_settings, labelled
from mer_zoo.settings import Settings

if TYPE_CHECKING:
    from mer_featurestore import Store

_ALONE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScores:
    """How well a probe reads the emotion from one space.

    Attributes:
        space: Which.
        n: Clips decided about, all out of fold.
        seeds: Trainings.
        folds: Folds of each, as asked for.
        waf: Mean over seeds, all folds' decisions pooled.
        waf_interval: 95 % bootstrap interval of that mean, over clips.
        waf_std: Standard deviation over seeds (n - 1; 0 for one).
        uar: Likewise.
        uar_interval: Likewise.
        uar_std: Likewise.
        keys: The clips.
        classes: C names.
        label: int64 `[n]`.
        said: int64 `[S, n]`, out-of-fold decisions.
        notices: What a person should know.
    """

    space: str
    n: int
    seeds: int
    folds: int
    waf: float
    waf_interval: Interval
    waf_std: float
    uar: float
    uar_interval: Interval
    uar_std: float
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    label: NDArray[np.int64]
    said: NDArray[np.int64]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON values, without the clips."""
        scores = {name: [getattr(self, name), *getattr(self, f"{name}_interval")] for name in ("waf", "uar")}
        plain = {name: getattr(self, name) for name in ("space", "n", "seeds", "folds", "waf_std", "uar_std")}
        return {**plain, **scores, "notices": list(self.notices)}


def probe(
    store: "Store",
    space: str,
    labels: str | None = None,
    *,
    seeds: int = 3,
    folds: int = 5,
    split: str = "train",
    group_by: str = "auto",
    keys: Collection[str] | None = None,
    hidden: int = 0,
    settings: Settings | None = None,
    epochs: int | None = None,
    device: str = "auto",
) -> ProbeScores:
    """Train a probe on one space over folds and seeds, and score its out-of-fold decisions.

    Nothing is written to the store.

    Args:
        store: The store.
        space: A space of any level (frames are averaged), or `space:3` for one layer of a space that keeps
            them apart.
        labels: Label layer; None takes `gold`, or the only one. Human labels alone are seen.
        seeds: Trainings, with seeds 0, 1 …, each with folds of its own.
        folds: Of each; grouped and stratified as in training.
        split: Whose labels; never `test`.
        group_by: What no fold may divide.
        keys: Only these clips; None for all.
        hidden: Units of a hidden layer; 0 makes the probe linear.
        settings: Of training, but for epochs; None is the default of probes.
        epochs: Of training; None takes as many as make 600 steps, and 10 at least.
        device: torch device, or `auto`.

    Raises:
        UnknownName: No such space, layer or split.
        ZooError: There are no such clips, folds cannot be made, or the space keeps layers and none is named.
        Diverged: A loss became infinite or NaN.
    """
    from mer_zoo.probing.fitting import fit_layers

    course = Course(
        seeds=seeds, folds=folds, split=split, group_by=group_by, hidden=hidden,
        settings=settings or default_settings(), epochs=epochs, device=device,
    )  # fmt: skip
    data = collect(store, space, labelled(store, labels, split, keys), course)
    if data.rows.shape[1] != _ALONE:
        raise ZooError(
            f"{space!r} keeps {data.rows.shape[1]} layers apart, and one is probed",
            f"say which: {space}:0 …, or probe all of them: mer-zoo probe-layers",
        )
    said, chosen = fit_layers(data, course)[0].argmax(-1), data.chosen
    (line,) = measure(chosen.label, {space: said}, len(chosen.classes))
    return ProbeScores(
        space=space, n=len(chosen.clips), seeds=seeds, folds=folds,
        waf=line.waf, waf_interval=line.waf_interval, waf_std=spread(chosen.label, said, "waf"),
        uar=line.uar, uar_interval=line.uar_interval, uar_std=spread(chosen.label, said, "uar"),
        keys=chosen.keys, classes=chosen.classes, label=chosen.label, said=said, notices=data.notices,
    )  # fmt: skip


def compare(before: ProbeScores, after: ProbeScores) -> tuple[Line, Line]:
    """Score two probes on the clips both decided about; `gain` of the second line is after minus before.

    Raises:
        ZooError: They share no clip, or know different classes.
    """
    if before.classes != after.classes:
        raise ZooError("the probes know different classes", "probe both on the same labels")
    place = {key: i for i, key in enumerate(after.keys)}
    shared = [i for i, key in enumerate(before.keys) if key in place]
    there = [place[before.keys[i]] for i in shared]
    if not shared:
        raise ZooError(f"{before.space!r} and {after.space!r} share no labelled clip", "extract both of some")
    label = before.label[shared]
    first, second = measure(
        label, {"before": before.said[:, shared], "after": after.said[:, there]}, len(before.classes)
    )
    return first, second


def spread(label: NDArray[np.int64], said: NDArray[np.int64], name: str) -> float:
    """Return the standard deviation over seeds (n - 1; 0 for one) of a score of decisions `[S, n]`."""
    if len(said) < 2:
        return 0.0
    return float(np.std([score_once(label, decided, name) for decided in said], ddof=1))


def score_once(label: NDArray[np.int64], decided: Sequence[int] | NDArray[np.int64], name: str) -> float:
    """Return one score of `mer_zoo.bootstrap.scores_of` of decisions `[n]`."""
    decided = np.asarray(decided)
    count = int(max(label.max(), decided.max())) + 1
    confusion = np.bincount(label * count + decided, minlength=count**2).reshape(count, count)
    return float(scores_of(confusion)[name])
