"""What probes learn from: labelled clips, their folds for each seed, and every layer's row of each clip."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_featurestore.records import Ragged
from mer_plugins.deriving import find_source
from mer_zoo.data import pool
from mer_zoo.errors import ZooError
from mer_zoo.folds import check_classes, make_folds
from mer_zoo.guards import leaks, refuse
from mer_zoo.settings import Settings
from mer_zoo.spaces import Chosen, Inputs
from mer_zoo.trainset import TrainSet, default_layer, train_set

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.records import SpaceSpec
    from mer_featurestore.spaces import FeatureSpace

_READ = 512  # clips read at once, so that there never is a second copy of all features
_STEPS, _EPOCHS = 600, 10  # with these, scores no longer change (docs/probing.md)
_WITH_LAYERS = 2  # axes of a row that keeps layers apart


def default_settings() -> Settings:
    """Return how a probe is trained unless said: a well regularised linear classifier."""
    return Settings(batch_size=64, lr=2e-3, weight_decay=0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How probes are trained and judged.

    Attributes:
        seeds: Trainings of each probe, with seeds 0, 1 …, each with folds of its own.
        folds: Of each; grouped and stratified as in training.
        split: Whose human labels are seen.
        group_by: What no fold may divide (`mer_zoo.folds`).
        hidden: Units of a hidden layer; 0 makes the probe linear.
        settings: Of training, but for `epochs` and `patience`: no probe stops by clips it is judged on.
        epochs: Of training; None takes as many as make 600 steps, and 10 at least.
        device: torch device, or `auto`.
        strict: Whether to refuse leaks instead of telling of them.

    Raises:
        ZooError: Fewer seeds than one, or fewer hidden units than none.
    """

    seeds: int = 3
    folds: int = 5
    split: str = "train"
    group_by: str = "auto"
    hidden: int = 0
    settings: Settings = field(default_factory=default_settings)
    epochs: int | None = None
    device: str = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ZooError(f"{self.seeds} seeds", "use --seeds 1 or more")
        if self.hidden < 0:
            raise ZooError(f"{self.hidden} hidden units", "use --hidden 1 or more, or 0 for a linear probe")
        if self.epochs is not None and self.epochs < 1:
            raise ZooError(f"{self.epochs} epochs", "use --epochs 1 or more")

    def training(self, clips: int) -> Settings:
        """Return the settings of training on so many clips, with epochs."""
        enough = max(_EPOCHS, math.ceil(_STEPS / math.ceil(clips / self.settings.batch_size)))
        return replace(self.settings, epochs=self.epochs or enough)


@dataclass(frozen=True, slots=True)
class ProbeData:
    """Labelled clips with a row of every layer, and their folds.

    Attributes:
        chosen: The clips and their labels, n of them.
        rows: float32 `[n + 1, L, D]`; the last is zeros (see `mer_zoo.data.Table`).
        fold: int64 `[S, n]`, the fold of each clip for each seed.
        notices: What a person should know.
    """

    chosen: TrainSet
    rows: Tensor
    fold: NDArray[np.int64]
    notices: tuple[str, ...]


def labelled(store: "Store", labels: str | None, split: str, keys: Collection[str] | None = None) -> TrainSet:
    """Return the clips of a split that people labelled, or those of them among `keys`.

    Raises:
        UnknownName: No such layer or split.
        ZooError: There is none, or the split is `test`.
    """
    chosen = train_set(store, labels or default_layer(store), split)
    wanted = chosen.human
    if keys is not None:
        only = set(keys)
        wanted = wanted & np.array([key in only for key in chosen.keys])
    if not wanted.any():
        raise ZooError(f"none of the clips given has a human label in {chosen.layer!r}", "give others")
    return chosen.take(wanted)


def collect(
    store: "Store", space: str, chosen: TrainSet, course: Course, places: Sequence[int] | None = None
) -> ProbeData:
    """Read what probes learn from; folds are those that training on the same clips would make.

    Args:
        store: The store.
        space: A feature space; `space:3` takes one layer of a space that keeps them apart.
        chosen: Labelled clips; those that are not in the space are left out.
        course: How many folds and seeds.
        places: On the layer axis, which layers; None takes all there are.

    Raises:
        UnknownName: No such space.
        ZooError: None of the clips is in the space, all are of one class, or folds cannot be made of them.
        Leak: With `course.strict`, when labels or copies leak.
    """
    found = find_space(store, space)
    at = _places(found.spec, space, places)
    check_classes(chosen.label, chosen.classes)
    parts = [
        make_folds(
            chosen.clips, chosen.label, chosen.classes, folds=course.folds, seed=s, group_by=course.group_by
        )
        for s in range(course.seeds)
    ]
    rows, present = _read(found, chosen.keys, at)
    kept = chosen.take(present, _left_out(present)) if not present.all() else chosen
    fold = np.stack([np.unique(part.fold[present], return_inverse=True)[1] for part in parts])
    if (fold.max(1) == 0).any():
        raise ZooError(f"only one fold has clips in {space!r}", f"extract more clips into {space!r}")
    spec = found.spec
    read = Inputs({spec.modality: Chosen(found.name, spec.fingerprint, spec.level, spec.row_shape[-1])})
    leaking = leaks(store, read, dict(zip(kept.keys, map(int, fold[0]), strict=True)))
    if course.strict:
        refuse(leaking)
    return ProbeData(kept, rows, fold, (*kept.notices, *parts[0].notices, *leaking))


def find_space(store: "Store", space: str) -> "FeatureSpace":
    """Return a space by its name, or by `name:layer`.

    Raises:
        UnknownName: There is none.
    """
    return find_source(store, space.partition(":")[0])


def _places(spec: "SpaceSpec", space: str, places: Sequence[int] | None) -> list[int] | None:
    """Return places on the layer axis; None for a space without one."""
    layer = space.partition(":")[2]
    if len(spec.row_shape) != _WITH_LAYERS:
        if layer or places is not None:
            raise ZooError(
                f"{spec.name!r} keeps no layers apart: its rows have the shape {spec.row_shape}",
                "extract one that does: mer-fs extract --layers all",
            )
        return None
    if places is not None:
        return list(places)
    if not layer:
        return list(range(spec.row_shape[0]))
    if not layer.isdecimal() or int(layer) >= spec.row_shape[0]:
        raise ZooError(
            f"{spec.name!r} has no layer {layer!r}",
            f"say one of {spec.name}:0 … {spec.name}:{spec.row_shape[0] - 1}",
        )
    return [int(layer)]


def _read(
    space: "FeatureSpace", keys: Sequence[str], at: Sequence[int] | None
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return rows `[m + 1, L, D]`, frames averaged, and which of the n clips have any, bool `[n]`."""
    there = [key for key in keys if key in space]
    having = {key for key, length in zip(there, space.lengths(there), strict=True) if length}
    present = np.array([key in having for key in keys], np.bool_)
    wanted = [key for key in keys if key in having]
    if not wanted:
        raise ZooError(
            f"none of the {len(keys)} labelled clips is in {space.name!r}",
            "extract them: mer-fs extract --plugin …",
        )
    layers, width = 1 if at is None else len(at), space.spec.row_shape[-1]
    rows = torch.zeros(len(wanted) + 1, layers, width)
    for first in range(0, len(wanted), _READ):
        part = space.read(wanted[first : first + _READ])
        data = part.data if at is None else part.data[:, at]
        means = pool(Ragged(data.reshape(len(data), -1), part.offsets)).data
        rows[first : first + len(means)] = torch.from_numpy(means).float().view(-1, layers, width)
    return rows, present


def _left_out(present: NDArray[np.bool_]) -> str:
    count = int((~present).sum())
    return f"{count} labelled clip{'s' * (count > 1)} without features left out"
