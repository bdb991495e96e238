"""The plain records the whole project speaks in: a clip, a feature space's specification, ragged features."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

Progress = Callable[[int, int], None]
"""Called with (things done, things in all)."""

Modality = Literal["audio", "video", "text"]
Level = Literal["utt", "frame"]
MODALITIES: tuple[Modality, ...] = ("audio", "video", "text")
LEVEL_SUFFIX: dict[Level, str] = {"utt": "UTT", "frame": "FRA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One utterance of one speaker, the unit everything is keyed by.

    Attributes:
        key: Unique in the store.
        corpus: Where it comes from, free text.
        split: `train`, `unlabeled`, `test` or any other word.
        speaker: Who speaks; empty when not known.
        group: What must not be split over folds besides the speaker (a dialogue); empty when none.
        audio: Path of a file with an audio stream (often the video's own), or None.
        video: Path of a file with a video stream, or None.
        text: Transcript; None when there is none, `""` when it is known to be empty.
        duration: Seconds; NaN when not known.
        content_hash: SHA-256 over media bytes and transcript; equal for copies under other names.
    """

    key: str
    corpus: str = ""
    split: str = ""
    speaker: str = ""
    group: str = ""
    audio: str | None = None
    video: str | None = None
    text: str | None = None
    duration: float = math.nan
    content_hash: str = ""

    def has(self, modality: Modality) -> bool:
        """Say whether the catalogue names anything of this modality for the clip."""
        return getattr(self, modality) is not None


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """What one extractor configuration produces: the identity of a feature space.

    Attributes:
        name: For people, e.g. `hubert-large-UTT`.
        modality: `audio`, `video` or `text`.
        level: `utt` (one row per clip) or `frame` (T rows per clip).
        row_shape: Shape of one row: `(D,)`, or `(L, D)` for a space with a layer axis.
        dtype: Stored dtype, `float16` or `float32`.
        made_by: Everything that decides the values (plugin, version, model, weight hash, layers, pooling,
            preprocessing …) as JSON; together with the fields above (but the name) it is the fingerprint.
        parents: Committed things it stands on, e.g. `adapters/hubert-large-lora`.
    """

    name: str
    modality: Modality
    level: Level
    row_shape: tuple[int, ...]
    dtype: Literal["float16", "float32"] = "float32"
    made_by: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Return the fields the fingerprint is computed from."""
        return {
            "modality": self.modality,
            "level": self.level,
            "row_shape": list(self.row_shape),
            "dtype": self.dtype,
            "made_by": dict(self.made_by),
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the canonical JSON of `identity()`."""
        return hashlib.sha256(canonical_json(self.identity())).hexdigest()


@dataclass(frozen=True, slots=True)
class Ragged:
    """Features of several clips, packed.

    Attributes:
        data: `[ΣT, *row_shape]` in the stored dtype.
        offsets: int64 `[n + 1]`; clip i has rows `offsets[i]:offsets[i + 1]`.
    """

    data: NDArray[Any]
    offsets: NDArray[np.int64]

    def __repr__(self) -> str:
        row = " x ".join(map(str, self.data.shape[1:]))
        return f"Ragged({len(self)} clips, {len(self.data)} rows x {row} {self.data.dtype})"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[Any]:
        """Return a view `[T_i, *row_shape]` of clip i."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield a view `[T_i, *row_shape]` of each clip."""
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows per clip, int64 `[n]`."""
        return np.diff(self.offsets)

    @classmethod
    def pack(
        cls,
        arrays: Sequence[NDArray[Any]],
        dtype: DTypeLike | None = None,
        row_shape: tuple[int, ...] | None = None,
    ) -> "Ragged":
        """Pack `[T_i, *row_shape]` arrays; an empty sequence needs `dtype` and `row_shape`."""
        lengths = [len(a) for a in arrays]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        if not arrays:
            return cls(np.empty((0, *(row_shape or ())), dtype or np.float32), offsets)
        return cls(np.concatenate(arrays).astype(dtype or arrays[0].dtype, copy=False), offsets)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of a value (sorted keys, no spaces, UTF-8, no NaN) that hashes are made of."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
