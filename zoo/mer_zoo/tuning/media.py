"""The clips as the encoder takes them: decoded once in threads, kept in memory as far as they fit."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.errors import MerError
from mer_featurestore.records import Clip
from mer_plugins.ahead import prepare_ahead, size_of
from mer_plugins.contract import Extractor
from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tell = Callable[[int, int], None]


class Media:
    """Prepared inputs by number.

    Attributes:
        reasons: Key -> why a clip cannot be used.
        cost: float64 `[n]`, what each input costs in a batch; NaN for one that cannot be used.
        kept: How many are in memory.

    Args:
        extractor: Loaded; its `prepare` reads the clips.
        clips: n clips.
        memory: Bytes that may be kept; the others are decoded again whenever they are needed.
        workers: Threads; 0 takes one per core, at most 8.
    """

    def __init__(
        self, extractor: Extractor[Any], clips: Sequence[Clip], *, memory: int, workers: int = 0
    ) -> None:
        self.extractor, self.clips = extractor, clips
        self.memory, self.workers = memory, workers or min(8, os.cpu_count() or 1)
        self.reasons: dict[str, str] = {}
        self.cost = np.full(len(clips), math.nan)
        self._kept: dict[int, Any] = {}

    @property
    def kept(self) -> int:
        """How many inputs are in memory."""
        return len(self._kept)

    def read(self, tell: Tell | None = None) -> None:
        """Decode every clip once: find out which can be used and what they cost, and keep what fits."""
        held = 0
        with closing(prepare_ahead(self.extractor.prepare, self.clips, self.workers)) as prepared:
            for i, item in enumerate(prepared):
                if item.error is not None:
                    self.reasons[item.clip.key] = _reason(item.error)
                else:
                    self.cost[i] = self.extractor.cost(item.value)
                    size = size_of(item.value)
                    if held + size <= self.memory:
                        self._kept[i], held = item.value, held + size
                if tell is not None:
                    tell(i + 1, len(self.clips))

    def only(self, where: "NDArray[np.bool_]") -> None:
        """Keep the clips where `where` is true, and number them anew."""
        old = np.flatnonzero(where).tolist()
        self.clips, self.cost = [self.clips[i] for i in old], self.cost[where]
        self._kept = {new: self._kept[i] for new, i in enumerate(old) if i in self._kept}

    def stream(self, order: Sequence[int]) -> Iterator[Any]:
        """Yield inputs in this order; those that are not kept are decoded ahead in threads.

        Raises:
            ZooError: A clip that could be read before cannot be read any more.
        """
        missing = [self.clips[i] for i in order if i not in self._kept]
        with closing(prepare_ahead(self.extractor.prepare, missing, self.workers)) as ahead:
            for i in order:
                if i in self._kept:
                    yield self._kept[i]
                    continue
                item = next(ahead)
                if item.error is not None:
                    raise ZooError(
                        f"clip {item.clip.key} could be read before and cannot any more: {item.error}",
                        "bring its media back; the same command then goes on",
                    )
                yield item.value


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MerError) else f"{type(error).__name__}: {error}"
