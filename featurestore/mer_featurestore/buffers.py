"""Clips on their way into a fragment: checked, cast and packed in memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput
from mer_featurestore.groups import Blocks
from mer_featurestore.records import SpaceSpec


class Buffer:
    """Clips of one space on their way into a fragment."""

    def __init__(self, spec: SpaceSpec, fragment_bytes: int) -> None:
        self.spec, self.dtype = spec, np.dtype(spec.dtype)
        one = int(np.prod(spec.row_shape, dtype=np.int64)) * self.dtype.itemsize
        self._capacity = max(1, fragment_bytes // one)
        self._data = np.empty((0, *spec.row_shape), self.dtype)
        self.keys: list[str] = []
        self._known: set[str] = set()
        self._ends: list[int] = [0]

    def checked(self, key: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array as `[T, *row_shape]` in the stored type; BadInput when it cannot be."""
        where = f"{key} for the space {self.spec.name}"
        if key in self._known:
            raise BadInput(f"{where}: added twice", "add each clip once")
        given = np.asarray(array)
        row = self.spec.row_shape
        if self.spec.level == "utt" and given.shape == row:
            given = given[None]
        if given.dtype.kind not in "fiu" or given.shape[1:] != row or given.ndim != len(row) + 1:
            expected = ", ".join(["T", *map(str, row)])
            raise BadInput(
                f"{where}: an array {given.dtype}{list(given.shape)} where numbers [{expected}] belong"
            )
        if self.spec.level == "utt" and len(given) != 1:
            raise BadInput(f"{where}: {len(given)} rows", "an utterance-level space has one row per clip")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused below
            stored = np.ascontiguousarray(given, self.dtype)
        if not is_finite(stored):
            raise BadInput(
                f"{where}: {_not_finite(given, self.dtype)}", "leave the clip out or quarantine it"
            )
        return stored

    def full(self, array: NDArray[Any]) -> bool:
        """Say whether the clip does not fit any more."""
        return bool(self.keys) and self._ends[-1] + len(array) > self._capacity

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Append a checked clip."""
        start, end = self._ends[-1], self._ends[-1] + len(array)
        if end > len(self._data):
            # Memory that is not touched yet costs nothing, so the whole fragment's room is taken at once.
            larger = np.empty((max(end, self._capacity), *self._data.shape[1:]), self.dtype)
            larger[:start] = self._data[:start]
            self._data = larger
        self._data[start:end] = array
        self._ends.append(end)
        self._known.add(key)
        self.keys.append(key)

    def truncate(self, clips: int) -> None:
        """Drop all but the first clips."""
        self._known -= set(self.keys[clips:])
        del self.keys[clips:], self._ends[clips + 1 :]

    def clear(self) -> None:
        """Drop all clips, keep the memory."""
        self.truncate(0)

    def packed(self, without: frozenset[int]) -> tuple[list[str], NDArray[np.int64], "NDArray[Any] | Blocks"]:
        """Return keys, lengths and data but for some clips."""
        ends = np.array(self._ends, np.int64)
        lengths: NDArray[np.int64] = ends[1:] - ends[:-1]
        if not without:
            return list(self.keys), lengths, self._data[: self._ends[-1]]
        kept = [i for i in range(len(self.keys)) if i not in without]
        pieces = (self._data[self._ends[i] : self._ends[i + 1]] for i in kept)
        shape = (int(lengths[kept].sum()), *self._data.shape[1:])
        return [self.keys[i] for i in kept], lengths[kept], Blocks(shape, self.dtype, pieces)


def is_finite(array: NDArray[Any]) -> bool:
    """Say whether a float16 or float32 array has neither NaN nor infinity, at the speed of memory.

    Those have all exponent bits set, so without the sign they are the largest integers.
    """
    if array.dtype.itemsize == 2:
        return int((array.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0)) < 0x7C00
    return int((array.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(initial=0)) < 0x7F800000


def _not_finite(given: NDArray[Any], dtype: np.dtype[Any]) -> str:
    if given.dtype.kind != "f" or np.isfinite(given).all():
        return f"values up to {np.abs(given.astype(np.float64)).max():g} do not fit {dtype}"
    count = int((~np.isfinite(given)).sum())
    return f"{count} of {given.size} values are NaN or infinite"
