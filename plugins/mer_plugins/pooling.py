"""How the frames of a clip become one utterance vector."""

import numpy as np
from numpy.typing import NDArray

POOLINGS = ("mean", "mean-std", "max")
POOL_OPTION = {"pool": ("mean", "utterance level: mean, mean-std (mean and standard deviation) or max")}


def pool_rows(how: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pool `[T, *row_shape]` over time to `[*pooled_shape]` float32, summing in float64.

    Args:
        how: `mean`; `mean-std`, the mean and the standard deviation (n - 1; 0 for one row) side by side along
            the last axis; or `max`.
        rows: float32, T > 0.
    """
    if how == "max":
        return np.asarray(rows.max(axis=0), dtype=np.float32)
    mean: NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
    if how == "mean":
        return mean.astype(np.float32)
    spread = rows.std(axis=0, ddof=1, dtype=np.float64) if len(rows) > 1 else np.zeros_like(mean)
    return np.concatenate([mean, spread], axis=-1).astype(np.float32)


def pool_down(rows: NDArray[np.float32], hz: float, wanted: float) -> NDArray[np.float32]:
    """Average neighbouring rows `[T, *row_shape]`, from `hz` a second to `wanted` a second, float32.

    Row t stands for the time (t + 1/2) / hz; all rows whose time lies within the same 1 / `wanted` seconds
    become one, the last of fewer rows where the clip ends within it. Sums are in float64.

    Args:
        rows: float32.
        hz: Rows a second.
        wanted: At most `hz`.
    """
    if not len(rows):
        return rows
    # The slack keeps times that lie on a boundary from falling to either side of it by a rounding error.
    place = np.floor((np.arange(len(rows)) + 0.5) * (wanted / hz) + 1e-9).astype(np.int64)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.diff(starts, append=len(rows)).reshape(-1, *[1] * (rows.ndim - 1))
    return (np.add.reduceat(rows, starts, axis=0, dtype=np.float64) / counts).astype(np.float32)


def pooled_shape(how: str, row_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of `pool_rows(how, rows)`."""
    return (*row_shape[:-1], 2 * row_shape[-1]) if how == "mean-std" else row_shape
