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


def pooled_shape(how: str, row_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of `pool_rows(how, rows)`."""
    return (*row_shape[:-1], 2 * row_shape[-1]) if how == "mean-std" else row_shape
