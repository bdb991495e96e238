"""Memory of batches is used again, and never while a tensor is on it."""

import gc
import pickle
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from mer_zoo.recycling import KEPT, Pool


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    """A tensor, a view of it or its NumPy array keeps the memory; without them it is used again."""
    pool = Pool()
    tensor = pool.empty((3, 4), torch.float32)
    place = tensor.data_ptr()
    for keep in (lambda t: t, lambda t: t[1:, ::2], lambda t: t.numpy(), lambda t: t.view(torch.int32).T):
        kept = keep(tensor)
        del tensor
        assert pool.empty((3, 4), torch.float32).data_ptr() != place
        del kept
        tensor = pool.empty((3, 4), torch.float32)
        assert tensor.data_ptr() == place


def test_types_and_sizes() -> None:
    """Any type and shape; larger batches get larger memory, smaller ones fit in it."""
    pool = Pool()
    large = pool.empty((100, 7), torch.bfloat16).fill_(2)
    assert (large.dtype, large.shape) == (torch.bfloat16, (100, 7))
    place = large.data_ptr()
    del large
    assert pool.empty((3, 2), torch.float64).data_ptr() == place
    assert pool.empty((4000,), torch.float32).data_ptr() != place
    assert pickle.loads(pickle.dumps(pool)).empty((1,), torch.int64).shape == (1,)


def test_holding_many_batches_keeps_few_blocks() -> None:
    """Batches that are all held are all different memory, and the pool does not grow without end."""
    pool = Pool()
    held = [pool.empty((10,), torch.float32).fill_(i) for i in range(50)]
    assert [int(t[0]) for t in held] == list(range(50))
    assert len(pool._blocks) <= KEPT
    del held
    gc.collect()
    assert len(pool._blocks) <= KEPT


class Counting(IterableDataset[torch.Tensor]):
    """Yields tensors full of their number, from a pool."""

    def __init__(self, n: int) -> None:
        self.n, self.pool = n, Pool()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield."""
        for i in range(self.n):
            tensor = self.pool.empty((1000 + i % 3, 5), torch.float32).fill_(i)
            (tensor + 1).sum()  # what is computed from it in the worker is a plain tensor
            yield tensor


def test_batches_from_a_worker() -> None:
    """They arrive as plain tensors; held ones keep their values while later ones use memory again."""
    held = []
    for i, tensor in enumerate(DataLoader(Counting(60), batch_size=None, num_workers=1, timeout=30)):
        assert type(tensor) is torch.Tensor
        assert tensor.shape == (1000 + i % 3, 5)
        assert bool((tensor == i).all())
        if i % 10 == 0:
            held.append(tensor[::7])
    assert all(bool((tensor == 10 * i).all()) for i, tensor in enumerate(held))


def test_a_worker_whose_batches_are_all_held() -> None:
    """Nothing is overwritten when the receiver keeps every batch."""
    batches = list(DataLoader(Counting(30), batch_size=None, num_workers=2, timeout=30))
    assert sorted(int(t[0, 0]) for t in batches) == sorted([*range(30)] * 2)
    assert all(bool((t == t[0, 0]).all()) for t in batches)
