"""Which clips train, and with which labels: human ones of a split, and every pseudo-labelled one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from mer_featurestore import Store

HUMAN = 0
TEST = "test"


@dataclass(frozen=True, slots=True)
class TrainSet:
    """Labelled clips, sorted by key.

    Attributes:
        layer: The label layer.
        classes: Its classes, C.
        clips: n clips.
        label: int64 `[n]`.
        probs: float32 `[n, C]`, soft labels (one-hot for human ones).
        confidence: float32 `[n]`.
        human: bool `[n]`; only these are ever validated on.
        notices: What a person should know about the choice.
    """

    layer: str
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    label: NDArray[np.int64]
    probs: NDArray[np.float32]
    confidence: NDArray[np.float32]
    human: NDArray[np.bool_]
    notices: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the clips."""
        return tuple(clip.key for clip in self.clips)

    @property
    def human_clips(self) -> list[Clip]:
        """The human-labelled clips, m of them."""
        return [clip for clip, human in zip(self.clips, self.human, strict=True) if human]

    @property
    def human_label(self) -> NDArray[np.int64]:
        """int64 `[m]`, labels of the human-labelled clips."""
        return self.label[self.human]

    def take(self, where: NDArray[np.bool_], notice: str = "") -> "TrainSet":
        """Return the clips where `where` is true, with one more notice."""
        return TrainSet(
            self.layer,
            self.classes,
            tuple(clip for clip, kept in zip(self.clips, where, strict=True) if kept),
            self.label[where],
            self.probs[where],
            self.confidence[where],
            self.human[where],
            (*self.notices, notice) if notice else self.notices,
        )


def default_layer(store: "Store") -> str:
    """Return the label layer that is meant when none is named: `gold`, or the only one.

    Raises:
        ZooError: There is none, or several and no `gold`.
    """
    names = list(store.labels)
    if "gold" in names or len(names) == 1:
        return "gold" if "gold" in names else names[0]
    if not names:
        raise ZooError(
            "there are no labels in the store", "import some: mer-fs labels import LABELS.csv --as gold"
        )
    raise ZooError("several label layers could be meant: " + ", ".join(names), "choose with --labels")


def train_set(store: "Store", layer: str, split: str) -> TrainSet:
    """Collect the clips to train on: human-labelled ones of `split`, pseudo-labelled ones of any but `test`.

    Args:
        store: The store.
        layer: A label layer; what it stands on counts too, and human labels always win.
        split: Whose human labels may be seen.

    Raises:
        UnknownName: No such layer, or no clip of such a split.
        ZooError: The split is `test`, or none of its clips has a human label.
    """
    if split == TEST:
        raise ZooError("test clips never train", "choose another --split")
    check_split(store, split)
    resolved = store.labels.resolve(layer)
    listed = [store.clips.get(key) for key in resolved.keys]
    human = np.asarray(resolved.source) == HUMAN
    allowed = np.array([_may_train(clip, split, h) for clip, h in zip(listed, human, strict=True)], np.bool_)
    if not (allowed & human).any():
        raise ZooError(
            f"no clip of split {split!r} has a human label in {layer!r}",
            f"labelled clips are of: {_splits_of(listed, human)}; choose with --split, or import labels",
        )
    at = np.flatnonzero(allowed)
    return TrainSet(
        layer,
        tuple(resolved.classes),
        tuple(clip for clip, kept in zip(listed, allowed, strict=True) if clip is not None and kept),
        resolved.label[at].astype(np.int64),
        resolved.probs[at].astype(np.float32),
        resolved.confidence[at].astype(np.float32),
        human[at],
        _notices(listed, human),
    )


def check_split(store: "Store", split: str) -> None:
    """Raise UnknownName when the catalogue has no clip of a split."""
    store.clips.select(split=split)


def _may_train(clip: Clip | None, split: str, human: bool) -> bool:
    return clip is not None and (clip.split == split if human else clip.split != TEST)


def _splits_of(clips: Sequence[Clip | None], human: NDArray[np.bool_]) -> str:
    counts = Counter(clip.split for clip, h in zip(clips, human, strict=True) if clip is not None and h)
    return ", ".join(f"{split or '(none)'} ({n})" for split, n in sorted(counts.items())) or "no split at all"


def _notices(clips: Sequence[Clip | None], human: NDArray[np.bool_]) -> tuple[str, ...]:
    unknown = sum(clip is None for clip in clips)
    pairs = zip(clips, human, strict=True)
    test = sum(clip is not None and clip.split == TEST and not h for clip, h in pairs)
    found = [f"{unknown} labelled clips are not in the catalogue and were left out"] if unknown else []
    return (
        *found,
        *(
            [f"{test} pseudo-labelled test clip{'s' * (test > 1)} left out: test clips never train"]
            if test
            else []
        ),
    )
