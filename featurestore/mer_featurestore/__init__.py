"""The feature store: clips, features, labels and runs under one journal of commits."""

import importlib
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import MerError
from mer_featurestore.records import Clip, Ragged, SpaceSpec

if TYPE_CHECKING:
    from mer_featurestore.labels import LabelLayer
    from mer_featurestore.store import Store

__all__ = ["Clip", "LabelLayer", "MerError", "Ragged", "SpaceSpec", "Store"]

_LAZY = {"LabelLayer": "mer_featurestore.labels", "Store": "mer_featurestore.store"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
