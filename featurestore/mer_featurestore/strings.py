"""String columns as two numeric arrays, UTF-8 bytes and int64 offsets (the Arrow layout); no pickle."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def encode(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack strings.

    Args:
        strings: Any text; lone surrogates (file names that are not UTF-8) survive the way back.

    Returns:
        uint8 `[bytes]`, all strings one after another, and int64 `[n + 1]`: string i has the bytes
        `offsets[i]:offsets[i + 1]`.
    """
    coded = [s.encode("utf-8", "surrogatepass") for s in strings]
    offsets = np.zeros(len(coded) + 1, np.int64)
    np.cumsum([len(c) for c in coded], out=offsets[1:])
    return np.frombuffer(b"".join(coded), np.uint8), offsets


def decode(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    """Unpack what `encode` packed, in order."""
    if len(offsets) < 2:
        return []
    raw = blob[int(offsets[0]) : int(offsets[-1])].tobytes()
    ends = (offsets - offsets[0]).tolist()
    if raw.isascii():  # one character a byte: one decoding for all, then slices of text
        text = raw.decode("ascii")
        return [text[a:b] for a, b in itertools.pairwise(ends)]
    return [raw[a:b].decode("utf-8", "surrogatepass") for a, b in itertools.pairwise(ends)]
