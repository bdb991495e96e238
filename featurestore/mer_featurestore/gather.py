"""From clips' places in fragments to their rows in a buffer: positional reads, or slices batched by block."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.fragments import Fragment
from mer_featurestore.positional import Piece, plan

SLICE_BYTES = 1 << 26  # one read through the backend gets no more than this in memory


def fill(
    fragment: Fragment,
    rows: Sequence[int],
    counts: Sequence[int],
    targets: Sequence[int],
    buffer: NDArray[np.uint8],
) -> list[Piece]:
    """Plan the positional reads of clips of one fragment; read them here and now where that cannot be.

    Args:
        fragment: Where the clips are.
        rows: First row of each clip.
        counts: Rows of each clip.
        targets: Byte of the buffer at which each clip goes.
        buffer: uint8 `[bytes]`.

    Returns:
        What is left to be read by position; nothing when the fragment was read through its backend.
    """
    if fragment.layout is not None:
        return plan(fragment.layout, rows, counts, targets)
    _slice(fragment, rows, counts, targets, buffer)
    return []


def _slice(
    fragment: Fragment,
    rows: Sequence[int],
    counts: Sequence[int],
    targets: Sequence[int],
    buffer: NDArray[np.uint8],
) -> None:
    """Read clips through the backend, those that share blocks in one call."""
    group = fragment.group
    shape, dtype = group.shape("data"), group.dtype("data")
    one = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    clips = sorted((r, c, t) for r, c, t in zip(rows, counts, targets, strict=True) if c)
    for run in _runs(clips, group.rows_per_block("data"), max(1, SLICE_BYTES // one)):
        first = run[0][0]
        block: NDArray[Any] = group.read("data", first, max(r + c for r, c, _ in run))
        flat = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        for row, count, target in run:
            a = (row - first) * one
            buffer[target : target + count * one] = flat[a : a + count * one]


def _runs(
    clips: Sequence[tuple[int, int, int]], block: int, limit: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Group clips, sorted by row, whose blocks touch, up to a number of rows."""
    run: list[tuple[int, int, int]] = []
    end = 0
    for clip in clips:
        row, count, _ = clip
        apart = row // block > max(0, end - 1) // block
        if run and (apart or row + count - run[0][0] > limit):
            yield run
            run, end = [], 0
        run.append(clip)
        end = max(end, row + count)
    if run:
        yield run
