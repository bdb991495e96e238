"""Lays label layers over each other: what a layer, with all it stands on, says about every clip."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.label_layer import HUMAN, LabelLayer


@dataclass(frozen=True, eq=False, repr=False)
class Resolved:
    """What a stack of layers says: one certain word per clip.

    Attributes:
        name: Of the top layer.
        classes: The top layer's.
        keys: Clips with a label, sorted, so that the order does not depend on how layers were made.
        label: int16 `[n]`, index into `classes`, never -1.
        probs: float32 `[n, C]`.
        confidence: float32 `[n]`.
        source: uint8 `[n]`, 0 human, 1 pseudo.
        layer_of: The layer that decided, per clip.
    """

    name: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    label: NDArray[np.int16]
    probs: NDArray[np.float32]
    confidence: NDArray[np.float32]
    source: NDArray[np.uint8]
    layer_of: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> str:
        """Return the class of a clip; UnknownName when it has no label."""
        return self.classes[int(self.label[self.row(key)])]

    def get(self, key: str) -> str | None:
        """Return the class of a clip, None when it has no label."""
        row = self._rows.get(key)
        return None if row is None else self.classes[int(self.label[row])]

    def __repr__(self) -> str:
        human = int((self.source == HUMAN).sum())
        counts = " ".join(f"{c}={n}" for c, n in self.counts().items())
        return f"<Resolved {self.name!r}: {human} human + {len(self) - human} pseudo labels; {counts}>"

    def row(self, key: str) -> int:
        """Return the row of a clip; UnknownName when it has no label."""
        try:
            return self._rows[key]
        except KeyError:
            raise UnknownName(f"labelled clip under layer {self.name!r}", key, self.keys) from None

    def counts(self) -> dict[str, int]:
        """Return class -> how many clips."""
        n = np.bincount(self.label, minlength=len(self.classes))
        return {c: int(n[i]) for i, c in enumerate(self.classes)}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}


def resolve(stack: Sequence[LabelLayer]) -> Resolved:
    """Lay layers over each other.

    A human label always wins, the nearest layer's if several have one. Of the others the nearest layer that
    judged the clip decides: where it dropped the clip, what older layers thought of it is out as well.

    Args:
        stack: The layer first, then what it stands on, nearest first; classes of the others must be among
            those of the first.

    Raises:
        BadInput: A layer below has a class the top layer does not have.
    """
    top = stack[0]
    deciding: dict[str, tuple[int, int]] = {}  # key -> layer, row
    for i, layer in enumerate(stack):
        for row in np.flatnonzero(layer.kept & (layer.source == HUMAN)).tolist():
            deciding.setdefault(layer.keys[row], (i, row))
    for i, layer in enumerate(stack):
        for row, (key, source) in enumerate(zip(layer.keys, layer.source, strict=True)):
            if source != HUMAN:
                deciding.setdefault(key, (i, row))
    keys = tuple(sorted(key for key, (i, row) in deciding.items() if stack[i].kept[row]))
    return _gather(top, stack, keys, [deciding[key] for key in keys])


def _gather(
    top: LabelLayer, stack: Sequence[LabelLayer], keys: tuple[str, ...], at: Sequence[tuple[int, int]]
) -> Resolved:
    n, C = len(keys), len(top.classes)
    layer_index = np.array([i for i, _ in at], np.int64)
    rows = np.array([row for _, row in at], np.int64)
    label, probs = np.empty(n, np.int16), np.zeros((n, C), np.float32)
    confidence, source = np.empty(n, np.float32), np.empty(n, np.uint8)
    for i, layer in enumerate(stack):
        columns = class_columns(layer, top)
        here = np.flatnonzero(layer_index == i)
        label[here] = columns[layer.label[rows[here]]]
        probs[np.ix_(here, columns)] = layer.probs[rows[here]]
        confidence[here], source[here] = layer.confidence[rows[here]], layer.source[rows[here]]
    names = [layer.name for layer in stack]
    return Resolved(
        top.name, top.classes, keys, label, probs, confidence, source, tuple(names[i] for i in layer_index)
    )


def class_columns(below: LabelLayer, top: LabelLayer) -> NDArray[np.int16]:
    """Return where each class of `below` is in `top`, int16 `[C of below]`; BadInput when one is not."""
    foreign = sorted(set(below.classes) - set(top.classes))
    if foreign:
        raise BadInput(
            f"layer {below.name!r} has the class {foreign[0]!r}, which {top.name!r} over it does not have",
            f"give {top.name!r} all classes of what it stands on: {', '.join(below.classes)}",
        )
    return np.array([top.classes.index(c) for c in below.classes], np.int16)


def flatten(layer: LabelLayer) -> Resolved:
    """Return what the layer says by itself, as if it stood on nothing."""
    return resolve([layer])


def counted(values: Iterable[Any]) -> dict[str, int]:
    """Return value -> how often, most frequent first, then by name."""
    from collections import Counter

    return dict(sorted(Counter(map(str, values)).items(), key=lambda item: (-item[1], item[0])))
