"""The rows of a space in the order an epoch wants them, standardised, within a bounded amount of memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_plugins.fitting import statistics

if TYPE_CHECKING:
    from mer_featurestore.spaces import FeatureSpace

Standard = tuple[NDArray[np.float64], NDArray[np.float64]]
_PIECE = 4096
IN_MEMORY = 1 << 30  # bytes of float32; larger spaces are read batch by batch


class View(Protocol):
    """Standardised rows of one view of the clips, by number."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def standard(self) -> Standard:
        """Mean and scale `[D]` float64 that they were standardised by."""

    def take(self, index: Tensor) -> Tensor:
        """Return float32 `[n, D]` on the CPU."""


class Kept:
    """Rows that are in memory already.

    Args:
        rows: float32 `[n, D]`, as the encoder gave them.
        standard: Mean and scale to standardise them by.
    """

    def __init__(self, rows: Tensor, standard: Standard) -> None:
        self.standard, self.width = standard, rows.shape[1]
        self._rows = standardised(rows, standard)

    def take(self, index: Tensor) -> Tensor:
        """Return float32 `[n, D]`."""
        return self._rows[index]


def standard_of(rows: Tensor) -> Standard:
    """Return mean and scale `[D]` of rows `[n, D]`; the scale is 1 where nothing varies."""
    exact = rows.double().numpy()
    std = exact.std(axis=0)
    return exact.mean(axis=0), np.where(std > 0, std, 1.0)


def standardised(rows: Tensor, standard: Standard) -> Tensor:
    """Return rows `[…, D]` less the mean, divided by the scale, float32, with gradients where enabled."""
    mean, scale = (torch.from_numpy(part).to(rows.device, torch.float32) for part in standard)
    return (rows.float() - mean) / scale


class Rows:
    """Rows of an utterance-level space by number, standardised by those of its first clips.

    Attributes:
        mean: float64 `[D]`, of the clips it was fitted on.
        scale: float64 `[D]`, their standard deviation; 1 where nothing varies.
        width: D.
    """

    def __init__(
        self, space: "FeatureSpace", keys: Sequence[str], fit_on: Sequence[str], memory: int = IN_MEMORY
    ) -> None:
        self._space, self._keys = space, list(keys)
        self.width = int(space.spec.row_shape[0])
        self.mean, std, _ = statistics(space, list(fit_on))
        self.scale = np.where(std > 0, std, 1.0)
        fits = len(self._keys) * self.width * 4 <= memory
        self._kept = self._read(self._keys) if fits else None

    @property
    def standard(self) -> Standard:
        """Mean and scale."""
        return self.mean, self.scale

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, index: Tensor) -> Tensor:
        """Return float32 `[n, D]` on the CPU."""
        if self._kept is not None:
            return self._kept[index]
        return self._read([self._keys[i] for i in index.tolist()])

    def _read(self, keys: list[str]) -> Tensor:
        found = torch.empty(len(keys), self.width)
        for start in range(0, len(keys), _PIECE):  # float64 of one piece at a time
            rows = self._space.matrix(keys[start : start + _PIECE])
            found[start : start + len(rows)] = torch.from_numpy((rows - self.mean) / self.scale)
        return found
