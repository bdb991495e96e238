"""The head that maps visual rows into the acoustic space, and what it becomes when it is kept."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_plugins.projection import Projection


class Head(nn.Module):
    """One affine map, or two with a GELU between, of standardised rows `[n, D_in]` to `[n, D_out]`.

    Args:
        width_in: D_in.
        width_out: D_out.
        hidden: Width between two maps; 0 makes it one.
        dropout: On the rows, while training.
    """

    def __init__(self, width_in: int, width_out: int, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.first = nn.Linear(width_in, hidden or width_out)
        self.second = nn.Linear(hidden, width_out) if hidden else None

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows."""
        out: Tensor = self.first(self.dropout(rows))
        return out if self.second is None else self.second(nn.functional.gelu(out))


def folded(
    head: Head,
    reads: tuple[NDArray[np.float64], NDArray[np.float64]],
    gives: tuple[NDArray[np.float64], NDArray[np.float64]],
    length: float = 1.0,
) -> Projection:
    """Fold standardisation on both sides into a head, so that it maps raw rows to raw rows.

    Args:
        head: Between standardised spaces.
        reads: Mean and scale `[D_in]` of the rows it reads.
        gives: Mean and scale `[D_out]` of the space it maps into.
        length: The head's output is multiplied by this before `gives`: losses on cosines leave lengths open.
    """
    maps = [_arrays(layer) for layer in (head.first, head.second) if layer is not None]
    weight, bias = maps[0]
    maps[0] = weight / reads[1], bias - weight @ (reads[0] / reads[1])
    weight, bias = maps[-1]
    scale = length * gives[1]
    maps[-1] = weight * scale[:, None], bias * scale + gives[0]
    return Projection(*(array.astype(np.float32) for layer in maps for array in layer))


def length_of(given: Tensor, wanted: Tensor) -> float:
    """Return the factor that makes rows `[n, D]` as long as others, in quadratic mean."""
    own = float(given.double().square().mean())
    return float(np.sqrt(float(wanted.double().square().mean()) / own)) if own > 0 else 1.0


def _arrays(layer: nn.Linear) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.no_grad():
        return layer.weight.double().cpu().numpy(), layer.bias.double().cpu().numpy()
