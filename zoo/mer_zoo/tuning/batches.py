"""The order of an epoch: batches of clips of like cost, shuffled, the same when the epoch is run again."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mer_zoo.tuning.media import Media

_WINDOW = 16  # batches that are sorted by cost together
Trim = Callable[[Any, np.random.Generator], Any]


def epoch_order(
    rows: NDArray[np.int64], cost: NDArray[np.float64], size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Divide clips into batches.

    Clips are shuffled, sorted by cost within windows of some batches, cut into batches, and these shuffled: a
    batch holds clips of like cost, so that little is padded, and yet differs from epoch to epoch.

    Args:
        rows: int64 `[n]`, places of the clips.
        cost: float64, by place.
        size: Clips a batch; the last may have fewer.
        seed: Of the training.
        epoch: From 0.
    """
    random = np.random.default_rng((seed, epoch))
    shuffled, window = random.permutation(rows), size * _WINDOW
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), window):
        part = shuffled[start : start + window]
        ordered = part[np.argsort(cost[part], kind="stable")].tolist()
        batches += [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [batches[i] for i in random.permutation(len(batches))]


class Batches:
    """What the trainer takes for a data loader: one epoch's batches, prepared ahead in threads.

    A batch is `{"target": float32 [B, C], "weight": float32 [B], "inputs": list of B}`.

    Args:
        media: All inputs.
        rows: int64 `[n]`, those to train on.
        target: float32 `[N, C]`, by place.
        weight: float32 `[N]`, by place.
        size: Clips a batch.
        seed: Decides the order, and what is cut out of long clips.
        trim: Bounds an input's cost; its draws do not depend on what else is in the batch.
    """

    def __init__(
        self,
        media: Media,
        rows: NDArray[np.int64],
        target: Tensor,
        weight: Tensor,
        *,
        size: int,
        seed: int,
        trim: Trim,
    ) -> None:
        self.media, self.dataset, self.size, self.seed, self.trim = media, rows, size, seed, trim
        self.target, self.weight = target, weight
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = epoch_order(self.dataset, self.media.cost, self.size, self.seed, self.epoch)
        stream = self.media.stream([i for batch in order for i in batch])
        for batch in order:
            inputs = [self.trim(next(stream), self._draws(i)) for i in batch]
            yield {"target": self.target[batch], "weight": self.weight[batch], "inputs": inputs}

    def _draws(self, clip: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, clip))


def in_order(media: Media, rows: NDArray[np.int64], size: int) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield places and inputs in batches of like cost, for scoring; every clip as a whole."""
    order = rows[np.argsort(media.cost[rows], kind="stable")].tolist()
    stream = media.stream(order)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        yield batch, [next(stream) for _ in batch]
