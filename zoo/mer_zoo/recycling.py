"""Memory for batches that is used again once nobody holds the batch, also across worker processes.

Fresh memory costs more than filling it: a 60 MB batch takes three times as long in pages that the kernel must
clear first, and six times in fresh shared memory, by which DataLoader workers send their batches. Here the
memory of a batch comes back when the last tensor on it is gone: torch then lets go of the array under it.
"""

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

HEAD = 64  # bytes before the data of a block; the first says whether it is in use
KEPT = 8  # blocks a process keeps; when more are held, further ones are made and given up afterwards
SLACK = 1.25  # batches differ in length

Bytes = NDArray[np.uint8]


class Pool(threading.local):
    """Blocks of memory for tensors, each thread its own; a process begins with none.

    Attributes:
        staging: NumPy memory for what is not a tensor yet, by any name.
    """

    def __init__(self) -> None:
        self._blocks: list[Bytes] = []
        self._worker: object = None
        self.staging: dict[str, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[type["Pool"], tuple[()]]:
        return Pool, ()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor; in a DataLoader worker one that is sent without a copy."""
        worker = get_worker_info()
        if worker is not self._worker:
            self._blocks, self._worker = [], worker
        block = self._take(math.prod(shape) * dtype.itemsize)
        return _tensor_on(block, shape, dtype) if worker is None else SharedTensor.make(block, shape, dtype)

    def _take(self, size: int) -> Bytes:
        """Return a block with room for `size` bytes that is not in use."""
        for block in self._blocks:
            if not block[0] and len(block) >= HEAD + size:
                return block
        room = HEAD + int(size * SLACK)
        block = np.empty(room, np.uint8) if self._worker is None else _shared(room)
        held = [old for old in self._blocks if old[0]]  # one that is free and too small is given up
        self._blocks = [*held[1 - KEPT :], block]
        return block


class SharedTensor(Tensor):
    """A tensor on a shared block; the process it is sent to gets a plain tensor on the same memory."""

    # What is computed from it is a plain tensor; torch documents this name for it.
    __torch_function__: Any = torch._C._disabled_torch_function_impl  # noqa: SLF001

    block: Bytes
    release: "weakref.finalize[[Bytes], Any]"

    @classmethod
    def make(cls, block: Bytes, shape: Sequence[int], dtype: torch.dtype) -> "SharedTensor":
        """Return a tensor on a block."""
        plain, release = _on(block, shape, dtype)
        tensor = plain.as_subclass(cls)
        tensor.block, tensor.release = block, release
        return tensor


def _tensor_on(block: Bytes, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return _on(block, shape, dtype)[0]


def _on(
    block: Bytes, shape: Sequence[int], dtype: torch.dtype
) -> "tuple[Tensor, weakref.finalize[[Bytes], Any]]":
    """Return a tensor on a block, and what frees the block when the last tensor on it is gone."""
    block[0] = 1
    data = block[HEAD : HEAD + math.prod(shape) * dtype.itemsize]
    # The tensor's storage holds `data` and nothing else does.
    release = weakref.finalize(data, _release, block)
    release.atexit = False
    return torch.from_numpy(data).view(dtype).view(*shape), release


def _release(block: Bytes) -> None:
    block[0] = 0


def _shared(size: int) -> Bytes:
    """Return zeroed memory that can be sent to another process."""
    # What torch's own collate function uses; there is no public name for it.
    make: Callable[[int], torch.UntypedStorage] = torch.UntypedStorage._new_shared  # noqa: SLF001
    return _bytes_of(make(size))


def _bytes_of(storage: torch.UntypedStorage) -> Bytes:
    array: Bytes = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return array


def _reduce(tensor: SharedTensor) -> Any:
    if tensor.release.detach() is None:  # sent before: only the first receiver may free the block
        share: Callable[[Tensor], Any] = reduce_tensor
        return share(tensor.as_subclass(Tensor).clone())
    owner: Any = tensor.block.base  # the tensor that `_bytes_of` made
    return _receive, (owner.untyped_storage(), tuple(tensor.shape), tensor.dtype)


def _receive(storage: torch.UntypedStorage, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _tensor_on(_bytes_of(storage), shape, dtype)


ForkingPickler.register(SharedTensor, _reduce)
