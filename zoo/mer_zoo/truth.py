"""Human labels as the truth that predictions are judged by."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput
from mer_zoo.errors import ZooError
from mer_zoo.trainset import HUMAN, check_split

if TYPE_CHECKING:
    from mer_featurestore import Store


def human_labels(store: "Store", layer: str, split: str | None = None) -> dict[str, str]:
    """Return key -> class of the clips people labelled in a layer, or in what it stands on.

    Args:
        store: The store.
        layer: A label layer.
        split: Only its clips; None for all.

    Raises:
        UnknownName: No such layer or split.
        ZooError: There is no such clip.
    """
    if split is not None:
        check_split(store, split)
    inside = None if split is None else {clip.key for clip in store.clips.select(split=split)}
    resolved = store.labels.resolve(layer)
    found = {
        key: resolved.classes[label]
        for key, label, source in zip(resolved.keys, resolved.label, resolved.source, strict=True)
        if source == HUMAN and (inside is None or key in inside)
    }
    if not found:
        where = "no clip" if split is None else f"no clip of split {split!r}"
        raise ZooError(
            f"{where} has a human label in {resolved.name!r}",
            "name another split (--split, --judge) or layer (--labels, --truth), or import labels: "
            "mer-fs labels import",
        )
    return found


def class_indices(
    truth: Mapping[str, str], keys: Sequence[str], classes: Sequence[str], run: str
) -> NDArray[np.int64]:
    """Return the labels of clips as indices `[n]` into a run's classes, matched by name.

    Raises:
        BadInput: A label is of a class the run does not know.
    """
    place = {name: i for i, name in enumerate(classes)}
    for key in keys:
        if truth[key] not in place:
            raise BadInput(
                f"clip {key!r} is labelled {truth[key]!r}, a class {run} does not know",
                "it knows: " + ", ".join(classes),
            )
    return np.array([place[truth[key]] for key in keys], np.int64)
