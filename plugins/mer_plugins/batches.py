"""Batches of like cost, and encoding them whatever memory there is."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mer_plugins.ahead import Prepared
from mer_plugins.contract import Extractor
from mer_plugins.errors import PluginError

WINDOW = 4  # batches gathered before they are sorted by cost


@dataclass(slots=True)
class Limit:
    """How much cost a batch may hold; halved when memory runs out, for the rest of the run."""

    cost: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """One clip's rows, or the error that stopped it."""

    item: Prepared
    rows: Any
    error: Exception | None = None


def in_batches(
    items: Iterable[Prepared], cost: Callable[[Any], float], limit: Limit, most: float = math.inf
) -> Iterator[list[Prepared]]:
    """Gather a few batches' worth, sort by cost and cut, to pad little; failed items go along.

    Never more than `most` items wait: what is gathered is lost when the process is killed.
    """
    gathered: list[tuple[float, Prepared]] = []
    for item in items:
        gathered.append((cost(item.value) if item.error is None else 0.0, item))
        if len(gathered) >= most or sum(c for c, _ in gathered) >= WINDOW * limit.cost:
            yield from _cut(gathered, limit)
            gathered = []
    yield from _cut(gathered, limit)


def _cut(gathered: list[tuple[float, Prepared]], limit: Limit) -> Iterator[list[Prepared]]:
    gathered.sort(key=lambda pair: pair[0])  # stable: like costs stay in the order of the clips
    batch: list[Prepared] = []
    for cost, item in gathered:
        if batch and (len(batch) + 1) * cost > limit.cost:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def encode(extractor: Extractor[Any], batch: Sequence[Prepared], limit: Limit) -> Iterator[Encoded]:
    """Encode a batch: smaller when memory runs out, one by one when something in it cannot be encoded.

    Raises:
        PluginError: The extractor returns another number of results, or rows of another shape than declared.
    """
    fit = [item for item in batch if item.error is None]
    yield from (Encoded(item, None, item.error) for item in batch if item.error is not None)
    if not fit:
        return
    try:
        results = extractor.encode([item.value for item in fit])
    except Exception as error:  # noqa: BLE001 - found out one by one below; a lone clip's error is its reason
        if len(fit) == 1:
            yield Encoded(fit[0], None, error)
            return
        if out_of_memory(error):
            limit.cost = min(limit.cost, len(fit) * max(extractor.cost(i.value) for i in fit) / 2)
            parts = [fit[: len(fit) // 2], fit[len(fit) // 2 :]]
        else:
            parts = [[item] for item in fit]
    else:
        yield from _checked(extractor, fit, results)
        return
    _release()
    for part in parts:
        yield from encode(extractor, part, limit)


def _checked(extractor: Extractor[Any], fit: Sequence[Prepared], results: Sequence[Any]) -> Iterator[Encoded]:
    if len(results) != len(fit):
        raise PluginError(
            f"{type(extractor).__name__}.encode returned {len(results)} arrays for {len(fit)} clips",
            "this is a fault of the plugin; tell its author",
        )
    for item, rows in zip(fit, results, strict=True):
        if tuple(rows.shape[1:]) != tuple(extractor.row_shape):
            raise PluginError(
                f"{type(extractor).__name__} declares rows of shape {tuple(extractor.row_shape)} and gave an "
                f"array {tuple(rows.shape)} for {item.clip.key}",
                "this is a fault of the plugin; tell its author",
            )
        yield Encoded(item, rows)


def out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out, on the machine or on the device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _release() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
