"""Preparing clips in worker threads ahead of the encoder, within a bounded amount of memory."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mer_featurestore.records import Clip

MEMORY = 256 << 20
MOST_CLIPS = 512


@dataclass(frozen=True, slots=True)
class Prepared:
    """One clip as the encoder wants it, or the error that stopped it, and the thread's seconds."""

    clip: Clip
    value: Any
    error: Exception | None
    seconds: float


def prepare_ahead(
    prepare: Callable[[Clip], Any], clips: Iterable[Clip], workers: int, memory: int = MEMORY
) -> Generator[Prepared, None, None]:
    """Yield clips in their order, prepared by `workers` threads that run ahead.

    They run ahead until what is ready and not taken holds `memory` bytes (or `MOST_CLIPS` clips); closing the
    generator stops them.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="mer-decode")
    waiting: deque[Future[Prepared]] = deque()
    source = iter(clips)
    try:
        while True:
            _top_up(pool, waiting, source, prepare, workers, memory)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _top_up(
    pool: ThreadPoolExecutor,
    waiting: "deque[Future[Prepared]]",
    source: Iterator[Clip],
    prepare: Callable[[Clip], Any],
    workers: int,
    memory: int,
) -> None:
    """Submit more: always enough to keep the workers busy, beyond that as far as memory goes."""
    ready = [size_of(future.result().value) for future in waiting if future.done()]
    typical = sum(ready) / len(ready) if ready else 0.0
    while len(waiting) <= 2 * workers or (
        ready and len(waiting) < MOST_CLIPS and typical * (len(waiting) + 1) < memory
    ):
        clip = next(source, None)
        if clip is None:
            return
        waiting.append(pool.submit(_prepared, prepare, clip))


def _prepared(prepare: Callable[[Clip], Any], clip: Clip) -> Prepared:
    start = time.perf_counter()
    try:
        value, error = prepare(clip), None
    except Exception as caught:  # noqa: BLE001 - one clip's failure, of whatever kind, is its quarantine's reason
        value, error = None, caught
    return Prepared(clip, value, error, time.perf_counter() - start)


def size_of(value: Any) -> int:
    """Return about how many bytes a prepared input holds."""
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(size_of(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_of(v) for v in value)
    return 64
