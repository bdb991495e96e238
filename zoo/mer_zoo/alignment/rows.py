"""The rows of a space in the order an epoch wants them, standardised, within a bounded amount of memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_plugins.fitting import statistics

if TYPE_CHECKING:
    from mer_featurestore.spaces import FeatureSpace

IN_MEMORY = 1 << 30  # bytes of float32; larger spaces are read batch by batch


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
    def standard(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
        rows = (self._space.matrix(keys) - self.mean) / self.scale
        return torch.from_numpy(rows.astype(np.float32))
