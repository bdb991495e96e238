"""Extractors of texts that misbehave, each in its own way; rows are a text's length and number."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import Clip
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.hookspecs import hookimpl


class Plain(Extractor[str]):
    """Behaves."""

    row_shape = (2,)
    batch_cost = 8.0
    batches: list[int]

    def __init__(self, options: Options) -> None:
        self.options = options
        self.batches = []

    def made_by(self) -> Mapping[str, Any]:
        """Return the class."""
        return {"kind": type(self).__name__}

    def prepare(self, clip: Clip) -> str:
        """Return the text."""
        return clip.text or ""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return three rows a text."""
        self.batches.append(len(batch))
        return [np.array([[len(text), int(text)]] * 3, np.float32) for text in batch]


class Greedy(Plain):
    """Runs out of memory on more than two clips."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode, or not."""
        if len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().encode(batch)


class Picky(Plain):
    """Cannot encode the text 13."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode, or not."""
        if "13" in batch:
            raise ZeroDivisionError("not this one")
        return super().encode(batch)


class Hopeless(Plain):
    """Cannot encode anything."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Fail."""
        raise AttributeError(f"no such thing: {len(batch)}")


class Sloppy(Plain):
    """Gives rows of another width than it declares."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode wrongly."""
        return [np.zeros((1, 3), np.float32) for _ in batch]


class Forgetful(Plain):
    """Gives too few results."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode all but one."""
        return super().encode(batch)[1:]


class Wild(Plain):
    """Gives values that cannot be stored."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode 3 as NaN and 5 as more than half precision holds."""
        rows = super().encode(batch)
        for text, row in zip(batch, rows, strict=True):
            row[0, 0] = {"3": np.nan, "5": 1e6}.get(text, row[0, 0])
        return rows


class Silent(Plain):
    """Gives no rows for even numbers."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode odd numbers only."""
        return [rows[: 3 * (int(text) % 2)] for text, rows in zip(batch, super().encode(batch), strict=True)]


class Deadly(Plain):
    """Takes its process along at the text 19; with the option `once` until that file is there."""

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode, or end."""
        once = self.options.extra.get("once")
        if "19" in batch and not (once and Path(once).exists()):
            if once:
                Path(once).touch()
            os._exit(7)
        return super().encode(batch)


class Slow(Plain):
    """Takes its time."""

    batch_cost = 1.0

    def encode(self, batch: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode ten a second."""
        time.sleep(0.1)
        return super().encode(batch)


@hookimpl
def mer_extractors() -> list[ExtractorCard]:
    """Offer them all."""
    kinds = (Plain, Greedy, Picky, Hopeless, Sloppy, Forgetful, Wild, Silent, Deadly, Slow)
    return [
        ExtractorCard(
            name=kind.__name__.lower(),
            modality="text",
            levels=("utt", "frame"),
            summary=str(kind.__doc__),
            build=kind,
            options={"once": ("", "a file that remembers a death")} if kind is Deadly else {},
        )
        for kind in kinds
    ]
