"""Label layers as groups of arrays."""

from typing import Any

import numpy as np

from mer_featurestore import texts
from mer_featurestore.errors import RESTORE, Damaged, MerError
from mer_featurestore.groups import Arrays, Group
from mer_featurestore.label_layer import LabelLayer

_NUMERIC = ("label", "probs", "confidence", "source")


def layer_to_group(layer: LabelLayer) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and attributes a layer is stored as; the class order is in the attributes."""
    arrays: dict[str, Any] = {name: getattr(layer, name) for name in _NUMERIC}
    if layer.members:  # an array of no columns has no bytes, which not every format can say
        arrays["votes"] = layer.votes
    arrays["kept"] = layer.kept.astype(np.uint8)
    text_arrays, text_attrs = texts.pack({"key": layer.keys, "reason": layer.reason})
    attrs = {
        "kind": "labels",
        "name": layer.name,
        "classes": list(layer.classes),
        "members": list(layer.members),
        "parents": list(layer.parents),
        "attrs": dict(layer.attrs),
    }
    return {**arrays, **text_arrays}, {**attrs, **text_attrs}


def layer_from_group(group: Group, where: str) -> LabelLayer:
    """Rebuild a layer; everything is checked again on the way.

    Args:
        group: As `layer_to_group` made it.
        where: Its path, for the message.

    Raises:
        Damaged: The group does not hold one.
        BadInput: Its parts do not fit together.
    """
    try:
        return _layer(group)
    except MerError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{where} does not hold a label layer: {error!r}", RESTORE) from error


def _layer(group: Group) -> LabelLayer:
    attrs = group.attrs
    columns = texts.unpack(group)
    return LabelLayer(
        name=attrs["name"],
        classes=tuple(attrs["classes"]),
        keys=tuple(columns["key"]),
        **{name: group.read(name) for name in _NUMERIC},
        votes=group.read("votes") if attrs["members"] else np.empty((len(columns["key"]), 0), np.int16),
        members=tuple(attrs["members"]),
        reason=tuple(columns["reason"]),
        kept=group.read("kept").astype(np.bool_),
        parents=tuple(attrs["parents"]),
        attrs=attrs["attrs"],
    )
