"""Which clips align: those that have both features, divided by speaker and group into three parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mer_featurestore.errors import UnknownName, suggest
from mer_featurestore.records import Clip, Modality
from mer_featurestore.wording import plural
from mer_zoo.errors import ZooError
from mer_zoo.folds import make_folds
from mer_zoo.trainset import TEST

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.spaces import FeatureSpace

PARTS = 5  # one of which validates, and another is held out unless a split is
LEAST = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """The clips of an alignment.

    Attributes:
        train: Keys the head learns from.
        valid: Keys that decide when it stops.
        held: Keys that retrieval is measured on.
        held_out: The split they are of, or `groups`: speakers and the like of the training splits.
        grouped_by: What the parts were divided by.
        notices: What a person should know.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    held: tuple[str, ...]
    held_out: str
    grouped_by: str
    notices: tuple[str, ...] = ()


def find_space(store: "Store", name: str) -> "FeatureSpace":
    """Return the space of a name, or `NAME-UTT`, with one row a clip and no layer axis.

    Raises:
        UnknownName: There is neither.
        ZooError: It has frames, or keeps layers.
    """
    found = next((n for n in (name, f"{name}-UTT") if n in store.features), None)
    if found is None:
        near = suggest(name, {*store.features, *(space.removesuffix("-UTT") for space in store.features)})
        near = f"{near}, or " if near.startswith("did you mean") else ""
        remedy = f"{near}extract it: mer-fs extract --plugin {name.removesuffix('-UTT')}"
        raise UnknownName("feature space", name, store.features, remedy)
    space = store.features[found]
    if space.spec.level != "utt":
        stem = found.removesuffix("-FRA")
        raise ZooError(
            f"{found} has many rows a clip, and alignment takes one",
            f"pool them: mer-fs derive {found} --pool mean --as {stem}-mean",
        )
    if len(space.spec.row_shape) != 1:
        raise ZooError(
            f"{found} keeps {space.spec.row_shape[0]} layers, and alignment takes rows of one",
            f"choose: mer-fs derive {found} --layers i-j --as {found.removesuffix('-UTT')}-layers",
        )
    return space


def choose_pairs(
    store: "Store",
    spaces: "Sequence[FeatureSpace]",
    splits: Sequence[str],
    *,
    having: Modality | None = None,
    held_out: str = "",
    group_by: str = "auto",
    seed: int = 0,
) -> Pairs:
    """Choose and divide the clips.

    Args:
        store: The store.
        spaces: What every clip has to be in.
        splits: Clips of these train and validate.
        having: What of every clip there has to be in the catalogue.
        held_out: Split that retrieval is measured on; empty holds out a fifth of the groups.
        group_by: What is kept together, as in `mer_zoo.folds.make_folds`.
        seed: Decides the division.

    Raises:
        UnknownName: No such split.
        ZooError: Test clips would train; too few clips have all of it, or there are too few groups.
    """
    if TEST in splits:
        raise ZooError("test clips never train", "they may be held out: --held-out test")
    if held_out and held_out in splits:
        raise ZooError(
            f"{held_out} cannot both train and be held out", "choose another --held-out or --split"
        )
    clips, notices = _with_all(store, spaces, having, splits)
    held: list[Clip] = []
    train = clips
    if held_out:
        held, more = _with_all(store, spaces, having, (held_out,))
        train, copies = _without_copies(clips, held)
        notices = [*notices, *more, *copies]
    parts = make_folds(
        train, np.zeros(len(train), np.int64), ("any",), folds=PARTS, seed=seed, group_by=group_by
    )
    if not held_out and parts.count < 3:
        raise ZooError(
            f"{parts.count} groups by {parts.grouped_by} cannot be divided into three parts",
            "hold out a split (--held-out), or divide clip by clip: --group-by none",
        )
    keys = np.array([clip.key for clip in train], dtype=object)
    first_held = parts.fold == 0 if not held_out else np.zeros(len(keys), bool)
    valid = parts.fold == (0 if held_out else 1)
    found = Pairs(
        train=tuple(keys[~valid & ~first_held]),
        valid=tuple(keys[valid]),
        held=tuple(clip.key for clip in held) if held_out else tuple(keys[first_held]),
        held_out=held_out or "groups",
        grouped_by=parts.grouped_by,
        notices=tuple(notices),
    )
    check_enough(found)
    return found


def _with_all(
    store: "Store", spaces: "Sequence[FeatureSpace]", having: Modality | None, splits: Sequence[str]
) -> tuple[list[Clip], list[str]]:
    clips = store.clips.select(split=splits, having=having)
    keys = [clip.key for clip in clips]
    lacks = {space.name: set(space.missing(keys)) for space in spaces}
    both = [clip for clip in clips if not any(clip.key in absent for absent in lacks.values())]
    named = " and ".join(splits)
    if len(both) < 2:
        told = " and ".join(f"{len(keys) - len(a)} have {name}" for name, a in lacks.items())
        raise ZooError(
            f"{len(both)} of {len(keys)} clips of {named} have all features: {told}",
            f"extract them for the same clips: mer-fs extract --split {','.join(splits)}",
        )
    left = len(clips) - len(both)
    return both, [
        f"{left} of {plural(len(clips), 'clip')} of {named} without one of the features"
    ] if left else []


def _without_copies(clips: list[Clip], held: list[Clip]) -> tuple[list[Clip], list[str]]:
    """Leave out copies, and whoever speaks in what is held out."""
    known = {clip.content_hash for clip in held if clip.content_hash}
    kept = [clip for clip in clips if clip.content_hash not in known]
    left = len(clips) - len(kept)
    notices = [f"not trained on, as copies of held-out clips: {plural(left, 'clip')}"] if left else []
    speakers = {(clip.corpus, clip.speaker) for clip in held if clip.speaker}
    shared = {clip.speaker for clip in kept if (clip.corpus, clip.speaker) in speakers}
    if shared:
        notices.append(f"both in training and held out: {plural(len(shared), 'speaker')}")
    return kept, notices


def check_enough(pairs: Pairs) -> None:
    """Raise ZooError when a part has too few clips."""
    sizes = {"train": len(pairs.train), "validate": len(pairs.valid), "are held out": len(pairs.held)}
    if len(pairs.train) < LEAST or min(sizes.values()) < 2:
        raise ZooError(
            "too few clips: " + ", ".join(f"{n} {part}" for part, n in sizes.items()),
            f"at least {LEAST} have to train, and 2 each to validate and be held out",
        )
