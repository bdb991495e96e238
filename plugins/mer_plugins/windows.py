"""Long inputs in overlapping windows, joined in the middle of each overlap."""

from itertools import pairwise
from typing import Any, NamedTuple


class Window(NamedTuple):
    """Rows `[start, stop)` are encoded together; of them `[keep_from, keep_to)` are kept."""

    start: int
    stop: int
    keep_from: int
    keep_to: int

    def kept(self, rows: Any) -> Any:
        """Return what is kept of this window's rows `[stop - start or more, …]`, an array or a tensor."""
        return rows[self.keep_from - self.start : self.keep_to - self.start]


def windows(rows: int, size: int, overlap: int) -> list[Window]:
    """Cover `rows` rows by windows of `size`, neighbours overlapping by at least `overlap`.

    Up to `size` rows are one window. Longer inputs have windows of exactly `size` (so that they can be one
    batch); the last one ends with the input and may overlap more. The seam lies in the middle of an overlap,
    so each kept row has seen at least half of the overlap on either side; every row is kept exactly once.
    """
    if rows <= size:
        return [Window(0, rows, 0, rows)]
    starts = [*range(0, rows - size, size - overlap), rows - size]
    seams = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), rows]
    return [Window(s, s + size, seams[i], seams[i + 1]) for i, s in enumerate(starts)]
