"""The extractor contract: a card that can be listed for nothing, and the extractor it builds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip, Level, Modality

Input = TypeVar("Input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can say about any extractor; `extra` holds the `--option name=value` of the one at hand.

    Attributes:
        model: Hub id or local path of the checkpoint; None takes the card's own.
        revision: Pinned hub revision.
        layers: `last`, `last4`, `all`, one layer `k`, a band `i-j`; summed, as in the MERTools baseline.
            Layer 0 is the input of the first transformer block.
        device: torch device.
        dtype: Compute dtype of a neural encoder.
    """

    model: str | None = None
    revision: str | None = None
    layers: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorCard:
    """What is known of an extractor before anything heavy is imported.

    Attributes:
        name: As typed after `--plugin`.
        modality: What it reads.
        levels: What it can give.
        summary: One line for `mer-fs plugins`.
        build: Makes the extractor from options; may import heavy packages.
        requires: Import names it needs beyond the core, e.g. `("cv2",)`.
        install: How to get them, e.g. `pip install 'mer-fs[video]'`.
        options: Its own options with defaults and a word on each, `{name: (default, help)}`.
        needs_model: Whether it must be given a checkpoint (`--model`).
    """

    name: str
    modality: Modality
    levels: tuple[Level, ...]
    summary: str
    build: Callable[[Options], "Extractor[Any]"]
    requires: tuple[str, ...] = ()
    install: str = ""
    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    needs_model: bool = False


class Extractor(ABC, Generic[Input]):
    """Turns clips of one modality into rows of features.

    The pipeline calls `prepare` in worker threads (decode and crop, no torch), then `encode` on batches of
    prepared inputs of like cost in the main thread, after one `load`.
    """

    row_shape: tuple[int, ...]

    @abstractmethod
    def made_by(self) -> Mapping[str, Any]:
        """Return every setting that decides the values, as JSON, without loading the model."""

    def load(self) -> None:
        """Bring weights into memory; called once, before the first `encode`."""

    @abstractmethod
    def prepare(self, clip: Clip) -> Input:
        """Decode one clip; raise `ClipError` with the reason when that cannot be done."""

    def cost(self, prepared: Input) -> float:
        """Return what one input costs in a batch (seconds, frames, tokens); inputs of like cost go together."""
        return 1.0

    @abstractmethod
    def encode(self, batch: Sequence[Input]) -> list[NDArray[np.float32]]:
        """Return `[T_i, *row_shape]` float32 per input, the same whatever else is in the batch."""

    def close(self) -> None:
        """Let go of what `load` took."""
