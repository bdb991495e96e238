"""Which clips each adapter learns from, is stopped by and is held out from; nothing here reads media."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_zoo.errors import ZooError
from mer_zoo.folds import Folds, make_folds
from mer_zoo.trainset import TrainSet

ALL, ONE = "all", "one"
LEAST = 3  # folds: one is held out, one decides when to stop, the rest train
_SHARE = 5  # without folds, a fifth of the groups decides when to stop

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter to train; numbers are places in the training set.

    Attributes:
        name: `fold-0`, `fold-1` …, `all`, or `one`.
        train: int64 `[n]`, the clips it learns from.
        valid: int64 `[m]`, human-labelled clips that decide when it stops; none for `all`.
        held: int64 `[h]`, human-labelled clips whose labels it never sees; none for `all` and `one`.
        seed: Decides order and dropout.
    """

    name: str
    train: Rows
    valid: Rows
    held: Rows
    seed: int


@dataclass(frozen=True, slots=True)
class Parts:
    """All adapters to train, in that order.

    Attributes:
        parts: The folds' first, `all` last.
        folds: Key -> fold; None without folds.
        grouped_by: What was kept together.
        notices: What a person should know.
    """

    parts: tuple[Part, ...]
    folds: dict[str, int] | None
    grouped_by: str
    notices: tuple[str, ...]


def divide(chosen: TrainSet, *, folds: int, all_data: bool, seed: int, group_by: str) -> Parts:
    """Decide who learns from what.

    With K folds, fold k holds out the clips of fold k, stops by those of fold k + 1 (mod K), and learns from
    the others. Pseudo-labelled clips join every training part, and no other.

    Raises:
        ZooError: Fewer than three folds, or groups to make them of; a training part that lacks a class, or
            validation clips that are all of one class.
    """
    if folds and folds < LEAST:
        raise ZooError(
            f"cannot tune with {folds} folds: one is held out, another decides when to stop",
            f"use --folds {LEAST} or more, or leave it out for one adapter",
        )
    made = make_folds(
        chosen.human_clips,
        chosen.human_label,
        chosen.classes,
        folds=folds or _SHARE,
        seed=seed,
        group_by=group_by,
    )
    fold = np.full(len(chosen.clips), -1, np.int64)
    fold[chosen.human] = made.fold
    parts = _folded(fold, made.count, seed, all_data) if folds else _single(fold, seed)
    for part in parts:
        _check(chosen, part)
    of = {clip.key: int(k) for clip, k in zip(chosen.human_clips, made.fold, strict=True)} if folds else None
    return Parts(parts, of, made.grouped_by, _notices(made, folds))


def _folded(fold: Rows, count: int, seed: int, all_data: bool) -> tuple[Part, ...]:
    if count < LEAST:
        raise ZooError(
            f"only {count} folds can be made without dividing a group, and {LEAST} are needed",
            "label clips of more speakers, use --group-by none, or leave --folds out for one adapter",
        )
    seeds = np.random.SeedSequence(seed).generate_state(count + 1, np.uint32)
    parts = [
        Part(
            f"fold-{k}",
            np.flatnonzero((fold != k) & (fold != (k + 1) % count)),
            np.flatnonzero(fold == (k + 1) % count),
            np.flatnonzero(fold == k),
            int(seeds[k]),
        )
        for k in range(count)
    ]
    nobody = np.empty(0, np.int64)
    if all_data:
        parts.append(Part(ALL, np.arange(len(fold)), nobody, nobody, int(seeds[count])))
    return tuple(parts)


def _single(fold: Rows, seed: int) -> tuple[Part, ...]:
    only = int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])
    return (Part(ONE, np.flatnonzero(fold != 0), np.flatnonzero(fold == 0), np.empty(0, np.int64), only),)


def _check(chosen: TrainSet, part: Part) -> None:
    """Refuse to train for hours what cannot tell the classes apart."""
    there, present = set(chosen.label.tolist()), set(chosen.label[part.train].tolist())
    if missing := sorted(there - present):
        names = ", ".join(repr(chosen.classes[i]) for i in missing)
        raise ZooError(
            f"the training part of {_told(part.name)} has no clip of class {names}",
            "label more clips or speakers, use fewer or more --folds, another --seed, or --group-by none",
        )
    if len(part.valid) and len(set(chosen.label[part.valid].tolist())) < 2:
        only = chosen.classes[int(chosen.label[part.valid[0]])]
        raise ZooError(
            f"all clips that would decide when {_told(part.name)} stops are of class {only!r}",
            "label more clips or speakers, use fewer --folds, another --seed, or --group-by none",
        )


def _told(name: str) -> str:
    return "the adapter" if name == ONE else name


def check_classes(chosen: TrainSet, before: Sequence[int], reasons: Mapping[str, str]) -> None:
    """Refuse when a class that had labelled clips has none left, and when there is only one class.

    Args:
        chosen: The clips that are left.
        before: Labels of all that there were.
        reasons: Key -> why a clip was left out, for the message.

    Raises:
        ZooError: It is so.
    """
    left = set(chosen.label.tolist())
    if not chosen.human.any():
        raise ZooError(
            f"none of the {len(before)} labelled clips can be used ({_some(reasons)})", "mend them"
        )
    if gone := sorted(set(before) - left):
        names = ", ".join(repr(chosen.classes[i]) for i in gone)
        raise ZooError(
            f"no usable clip is left of class {names} ({_some(reasons)})",
            "mend the clips that were left out, or tune on more",
        )
    if len(left) < 2:
        only = chosen.classes[next(iter(left))]
        raise ZooError(f"all labelled clips are of class {only!r}: there is nothing to tell apart")


def _some(reasons: Mapping[str, str]) -> str:
    told = [f"{key}: {reason}" for key, reason in list(reasons.items())[:3]]
    return "; ".join(told) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _notices(made: Folds, folds: int) -> tuple[str, ...]:
    return made.notices if folds else tuple(n for n in made.notices if "folds" not in n)
