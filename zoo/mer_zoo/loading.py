"""Frame-level features from the store to torch batches: by key, or streamed with bounded memory.

Two ways for a `torch.utils.data.DataLoader`, both usable in forked workers after the parent has read:

    dataset = FeatureDataset({"audio": store.features["hubert-FRA"]}, keys)
    for batch in DataLoader(
        dataset, batch_size=64, shuffle=True, num_workers=2, persistent_workers=True, collate_fn=collate
    ): ...

    stream = FeatureStream({"audio": store.features["hubert-FRA"]}, keys, batch_size=64)
    for batch in DataLoader(stream, batch_size=None, num_workers=2): ...

The first reads 64 random clips a batch and is fast on a local disk or a warm cache. The second reads runs of
clips that lie together and mixes them in a buffer: for data larger than memory on slow or distant storage.
Workers that are kept from epoch to epoch (`persistent_workers`) keep the memory they send batches in; a store
on S3 needs `multiprocessing_context="spawn"`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from mer_zoo.contract import Sequences
from mer_zoo.recycling import Pool

if TYPE_CHECKING:
    from mer_featurestore.spaces import FeatureSpace

MEMORY_BYTES = 1 << 28
BLOCK_BYTES = 1 << 22
_POOL = Pool()  # of `collate`


class Loaded(NamedTuple):
    """A batch of clips.

    Attributes:
        positions: int64 `[B]`; place of each clip among the dataset's keys, to look labels up by.
        features: Modality -> features `[B, T, *row_shape]` and mask bool `[B, T]`; T differs by modality.
    """

    positions: Tensor
    features: dict[str, Sequences]


class Item(NamedTuple):
    """One clip: its position among the keys, and `[T, *row_shape]` in the stored type by modality."""

    position: int
    features: dict[str, NDArray[Any]]


class FeatureDataset(Dataset[Item]):
    """Clips by position; a DataLoader gets each batch in one read per modality.

    A clip that a space does not have is all padding there.

    Args:
        spaces: Modality -> feature space.
        keys: Clips, in the order of their positions.
        max_len: Rows of a clip beyond this (at least 1) are left out.
        dtype: Of the features in a batch.
    """

    def __init__(
        self,
        spaces: Mapping[str, "FeatureSpace"],
        keys: Sequence[str],
        *,
        max_len: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spaces, self.keys = dict(spaces), list(keys)
        self.max_len, self.dtype = max_len, dtype
        # Once, and before workers are forked: what a batch needs is then known without a look into the index.
        self._lengths = {m: space.lengths(self.keys, absent_ok=True) for m, space in self.spaces.items()}
        self._pool = Pool()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        """Return one clip."""
        key = self.keys[index]
        return Item(index, {m: _read(s, [key])[0][: self.max_len] for m, s in self.spaces.items()})

    def __getitems__(self, indices: Sequence[int]) -> Loaded:
        """Return a batch; DataLoader prefers this to single clips."""
        features = {modality: self._padded(modality, indices) for modality in self.spaces}
        return Loaded(torch.as_tensor(indices, dtype=torch.int64), features)

    def _padded(self, modality: str, indices: Sequence[int]) -> Sequences:
        padded, mask = self.spaces[modality].read_padded(
            [self.keys[i] for i in indices],
            dtype=None,
            max_len=self.max_len,
            absent_ok=True,
            out=self._room(modality, indices),
        )
        return Sequences(_cast(padded, self.dtype, self._pool), torch.from_numpy(mask))

    def _room(self, modality: str, indices: Sequence[int]) -> NDArray[Any]:
        """Return memory for a padded batch in the stored type, used again for the next one."""
        space = self.spaces[modality]
        longest = int(self._lengths[modality][list(indices)].max(initial=1))
        need = len(indices) * min(longest, self.max_len or longest) * math.prod(space.spec.row_shape)
        room = self._pool.staging.get(modality)
        if room is None or room.size < need:
            room = self._pool.staging[modality] = np.empty(need, space.dtype)
        return room


class FeatureStream(IterableDataset[Loaded]):
    """Batches of all clips in a new random order each time, read in runs that lie together on disk.

    Clips are taken in blocks of neighbours in store order; the blocks come in random order into a buffer, and
    batches are drawn from it at random. Memory is bounded by `memory_bytes` (for each worker) however large
    the spaces are. DataLoader workers share the blocks between them.

    Args:
        spaces: Modality -> feature space; blocks are neighbours in the first.
        keys: Clips, in the order of their positions.
        batch_size: Clips in a batch.
        max_len: Rows of a clip beyond this (at least 1) are left out.
        dtype: Of the features in a batch.
        seed: Makes the order the same in every run; from torch's own generator by default.
        memory_bytes: Bytes of features in the buffer.
        block_bytes: About what is read at once.
        drop_last: Leave out the last batch (of each worker) when it is not full.
    """

    def __init__(
        self,
        spaces: Mapping[str, "FeatureSpace"],
        keys: Sequence[str],
        *,
        batch_size: int = 64,
        max_len: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        block_bytes: int = BLOCK_BYTES,
        drop_last: bool = False,
    ) -> None:
        self.spaces, self.keys, self.batch_size = dict(spaces), list(keys), batch_size
        self.max_len, self.dtype, self.seed = max_len, dtype, seed
        self.memory_bytes, self.block_bytes, self.drop_last = memory_bytes, block_bytes, drop_last
        self.epoch = 0

    def __iter__(self) -> Iterator[Loaded]:
        """Yield batches; the next call gives another order."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        order = np.random.default_rng([self._base_seed(), self.epoch])
        self.epoch += 1
        blocks = self._blocks()
        mine = [blocks[i] for i in order.permutation(len(blocks))[number::workers]]
        draw = np.random.default_rng([*order.integers(0, 2**32, 2), number])
        yield from self._batches(mine, draw)

    def _base_seed(self) -> int:
        """Return a seed that is the same in all workers of an epoch."""
        if self.seed is not None:
            return self.seed
        worker = get_worker_info()
        return worker.seed - worker.id if worker else int(torch.randint(2**62, ()).item())

    def _blocks(self) -> list[NDArray[np.int64]]:
        """Return positions of clips that lie together, about `block_bytes` a block."""
        first = next(iter(self.spaces.values()))
        places = first.index.find(self.keys)
        nearby = np.argsort(places, kind="stable")  # those the space does not have come first
        sizes = np.zeros(len(self.keys), np.int64)
        for space in self.spaces.values():
            row = math.prod(space.spec.row_shape) * space.dtype.itemsize
            sizes += space.lengths(self.keys, absent_ok=True) * row
        ends = np.cumsum(sizes[nearby]) // self.block_bytes
        return np.split(nearby, np.flatnonzero(np.diff(ends)) + 1) if len(nearby) else []

    def _batches(self, blocks: Sequence[NDArray[np.int64]], draw: np.random.Generator) -> Iterator[Loaded]:
        pool: list[Item] = []
        held, waiting = 0, iter(blocks)
        exhausted = False
        while True:
            while not exhausted and (held < self.memory_bytes or len(pool) < self.batch_size):
                block = next(waiting, None)
                if block is None:
                    exhausted = True
                else:
                    items = self._load(block)
                    held += sum(map(_size, items))
                    pool += items
            if not pool or (self.drop_last and len(pool) < self.batch_size):
                return
            batch = [_draw(pool, draw) for _ in range(min(self.batch_size, len(pool)))]
            held -= sum(map(_size, batch))
            yield collate(batch, dtype=self.dtype)

    def _load(self, block: NDArray[np.int64]) -> list[Item]:
        keys = [self.keys[i] for i in block.tolist()]
        read = {modality: _read(space, keys) for modality, space in self.spaces.items()}
        # Copies: a view would keep its whole block in memory until the last clip of it is drawn.
        return [
            Item(i, {modality: arrays[j][: self.max_len].copy() for modality, arrays in read.items()})
            for j, i in enumerate(block.tolist())
        ]


def collate(batch: Loaded | Sequence[Item], *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Make a padded batch of items (the `collate_fn` of a DataLoader over either dataset).

    Args:
        batch: Items, or a batch that is one already.
        dtype: Of the features; the cast comes last.

    Returns:
        Features `[B, T, *row_shape]` and mask `[B, T]` by modality; T is at least 1.
    """
    if isinstance(batch, Loaded):
        return batch
    positions = torch.tensor([item.position for item in batch], dtype=torch.int64)
    return Loaded(
        positions, {m: _pad([item.features[m] for item in batch], dtype, _POOL) for m in batch[0].features}
    )


def _pad(arrays: Sequence[NDArray[Any]], dtype: torch.dtype, pool: Pool) -> Sequences:
    lengths = np.array([len(array) for array in arrays], np.int64)
    longest = max(1, int(lengths.max()))
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for i, array in enumerate(arrays):
        padded[i, : len(array)] = array
    mask = np.arange(longest) < lengths[:, None]
    return Sequences(_cast(padded, dtype, pool), torch.from_numpy(mask))


def _cast(padded: NDArray[Any], dtype: torch.dtype, pool: Pool) -> Tensor:
    """Return a tensor of its own, cast in one go: torch's threads meet once a batch, not once a clip."""
    source = torch.from_numpy(padded)
    return pool.empty(source.shape, dtype).copy_(source)


def _read(space: "FeatureSpace", keys: Sequence[str]) -> list[NDArray[Any]]:
    """Return clips' features, `[0, *row_shape]` where the space does not have them."""
    lacking = set(space.missing(keys))
    there = [key for key in keys if key not in lacking]
    ragged = iter(space.read(there))
    empty = np.empty((0, *space.spec.row_shape), space.dtype)
    return [empty if key in lacking else next(ragged) for key in keys]


def _size(item: Item) -> int:
    return sum(array.nbytes for array in item.features.values())


def _draw(pool: list[Item], draw: np.random.Generator) -> Item:
    """Take a random item out of the pool."""
    i = int(draw.integers(len(pool)))
    pool[i], pool[-1] = pool[-1], pool[i]
    return pool.pop()
