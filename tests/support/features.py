"""Feature spaces for tests: specifications, random clips, and a store filled with both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import SpaceSpec, Store

Clips = dict[str, NDArray[Any]]


def make_spec(name: str = "x-FRA", **changes: Any) -> SpaceSpec:
    """Return a small frame-level specification, or a changed one."""
    settings: dict[str, Any] = {
        "modality": "audio",
        "level": "utt" if name.endswith("UTT") else "frame",
        "row_shape": (6,),
        "dtype": "float16",
        "made_by": {"plugin": "prosody", "model": {"name": "m", "revision": "r1"}},
    }
    return SpaceSpec(name=name, **(settings | changes))


def make_clips(n: int, spec: SpaceSpec, *, first: int = 0, longest: int = 9) -> Clips:
    """Return n clips of random values and of 0 to `longest` rows (1 at utterance level)."""
    random = np.random.default_rng(first)
    lengths = np.ones(n, int) if spec.level == "utt" else random.integers(0, longest + 1, n)
    return {
        f"clip/{first + i:05d}": random.normal(size=(length, *spec.row_shape)).astype(spec.dtype)
        for i, length in enumerate(lengths)
    }


def write(store: Store, spec: SpaceSpec, clips: Mapping[str, NDArray[Any]], **options: Any) -> int | None:
    """Add clips in one commit; return its number."""
    with store.features.writer(spec, **options) as writer:
        for key, array in clips.items():
            writer.add(key, array)
        return writer.flush()


def fill(
    url: str | Path, spec: SpaceSpec, parts: int = 3, n: int = 20, **options: Any
) -> tuple[Store, Clips]:
    """Make a store whose space has `parts` fragments of n clips; return both."""
    store, clips = Store.create(url, backend=options.pop("store_backend", "zarr")), Clips()
    for part in range(parts):
        more = make_clips(n, spec, first=part * n)
        write(store, spec, more, **options)
        clips |= more
    return store, clips
