"""Features in memory: read by key once, gathered by index, padded per batch; missing modalities masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_featurestore.records import Ragged
from mer_zoo.contract import Sequences

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_zoo.spaces import Inputs

_CHUNK = 1 << 18  # values looked at at once when standardisation is fitted: few enough to stay in the cache


@dataclass(frozen=True, slots=True)
class Table:
    """One modality of n clips, packed.

    Attributes:
        rows: `[ΣT + 1, D]` in the stored dtype; the last row is zeros, and padding points at it.
        start: int64 `[n]`, first row of each clip.
        length: int64 `[n]`, rows of each clip; 0 where the modality is missing.
    """

    rows: Tensor
    start: Tensor
    length: Tensor

    @classmethod
    def pack(cls, ragged: Ragged, where: NDArray[np.int64], n: int) -> "Table":
        """Make a table of n clips from the features of those at positions `where`."""
        total, width = ragged.data.shape
        rows = np.zeros((total + 1, width), ragged.data.dtype)
        rows[:total] = ragged.data
        start, length = np.zeros(n, np.int64), np.zeros(n, np.int64)
        start[where], length[where] = ragged.offsets[:-1], ragged.lengths
        return cls(torch.from_numpy(rows), torch.from_numpy(start), torch.from_numpy(length))

    @property
    def width(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def gather(self, index: Tensor) -> Sequences:
        """Return clips `index` `[...]` as float32 `[..., T, D]` and mask `[..., T]`, T the longest."""
        length = self.length[index].unsqueeze(-1)
        time = torch.arange(max(int(length.max()), 1) if length.numel() else 1, device=index.device)
        mask = time < length
        at = torch.where(mask, self.start[index].unsqueeze(-1) + time, len(self.rows) - 1)
        features = self.rows.index_select(0, at.flatten()).view(*at.shape, self.width)
        return Sequences(features.float(), mask)

    def fit(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / standard deviation, float32 `[D]` each, over all rows of clips `index`.

        A feature that does not vary gets the scale 1; without any row, mean 0 and scale 1.
        """
        length = self.length[index]
        first = torch.repeat_interleave(self.start[index] - length.cumsum(0) + length, length)
        at = first + torch.arange(len(first), device=first.device)
        mean = torch.zeros(self.width, dtype=torch.float64, device=self.rows.device)
        square, count = torch.zeros_like(mean), 0
        # Merged pairwise (Chan et al. 1979): nothing cancels. torch.var_mean takes seven times as long.
        for part in torch.split(at, max(1, _CHUNK // self.width)) if len(at) else ():
            some = self.rows.index_select(0, part).float()
            middle = some.mean(0)
            rest = some.sub_(middle).mean(0).double()  # what rounding has left of the mean
            spread = some.square_().sum(0).double() - rest.square() * len(part)
            gap, share = middle.double() + rest - mean, len(part) / (count + len(part))
            square += spread + gap.square() * (count * share)
            mean, count = mean + gap * share, count + len(part)
        deviation = (square / max(count, 1)).clamp(min=0).sqrt()
        scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 1.0)
        return mean.float(), scale.float()


@dataclass(frozen=True, slots=True)
class Features:
    """All modalities of n clips in memory.

    Attributes:
        keys: n clip keys.
        tables: By modality.
    """

    keys: tuple[str, ...]
    tables: Mapping[str, Table]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def widths(self) -> dict[str, int]:
        """D per modality."""
        return {name: table.width for name, table in self.tables.items()}

    @property
    def present(self) -> Tensor:
        """Clips that have at least one modality, bool `[n]`."""
        return torch.stack([table.length > 0 for table in self.tables.values()]).any(0)

    def batch(self, index: Tensor) -> dict[str, Sequences]:
        """Return clips `index` `[B]` (or `[..., B]`) as a batch."""
        return {name: table.gather(index) for name, table in self.tables.items()}

    def take(self, index: Tensor) -> "Features":
        """Return clips `index` `[n]` of these, sharing the rows."""
        tables = {
            name: Table(table.rows, table.start[index], table.length[index])
            for name, table in self.tables.items()
        }
        return Features(tuple(self.keys[i] for i in index.tolist()), tables)

    def to(self, device: torch.device | str) -> "Features":
        """Return the same on a device."""
        moved = {
            name: Table(table.rows.to(device), table.start.to(device), table.length.to(device))
            for name, table in self.tables.items()
        }
        return replace(self, tables=moved)


def load_features(store: "Store", inputs: "Inputs", keys: Sequence[str], *, pooled: bool = False) -> Features:
    """Read the features of clips from the store.

    Args:
        store: Where from.
        inputs: Which spaces, and how frames are thinned out.
        keys: n clips; one that a space does not have is missing there.
        pooled: Whether to keep only the mean over frames (for models that read single vectors).
    """
    tables = {}
    for name, chosen in inputs.chosen.items():
        space = store.features[chosen.space]
        lacking = set(space.missing(keys))
        where = np.array([i for i, key in enumerate(keys) if key not in lacking], np.int64)
        ragged = space.read([keys[i] for i in where])
        if chosen.layer is not None:
            ragged = Ragged(np.ascontiguousarray(ragged.data[:, chosen.layer]), ragged.offsets)
        ragged = thin(ragged, inputs.max_frames)
        tables[name] = Table.pack(pool(ragged) if pooled else ragged, where, len(keys))
    return Features(tuple(keys), tables)


def thin(ragged: Ragged, max_frames: int | None) -> Ragged:
    """Return at most `max_frames` frames a clip: those nearest to equal spacing from the first to the last.

    Frame j of a clip of T > max_frames is the old frame round(j·(T - 1) / (max_frames - 1)); a single frame
    is the middle one. Clips that are short enough are untouched.
    """
    if max_frames is None or not len(ragged) or int(ragged.lengths.max()) <= max_frames:
        return ragged
    kept = [_spread(int(length), max_frames) for length in ragged.lengths]
    at = np.concatenate([start + k for start, k in zip(ragged.offsets[:-1], kept, strict=True)])
    offsets = np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(np.int64)
    return Ragged(ragged.data[at], offsets)


def _spread(length: int, most: int) -> NDArray[np.int64]:
    if length <= most:
        return np.arange(length)
    if most == 1:
        return np.array([length // 2])
    return np.round(np.arange(most) * ((length - 1) / (most - 1))).astype(np.int64)


def pool(ragged: Ragged) -> Ragged:
    """Return the mean over frames of each clip, float32; a clip without frames stays without."""
    if not len(ragged) or (len(ragged.data) == len(ragged) and int(ragged.lengths.min()) == 1):
        return ragged
    some = ragged.lengths > 0
    sums = np.add.reduceat(ragged.data.astype(np.float32), ragged.offsets[:-1][some], axis=0)
    means = (sums / ragged.lengths[some, None]).astype(np.float32)
    return Ragged(means, np.concatenate([[0], np.cumsum(some)]).astype(np.int64))
