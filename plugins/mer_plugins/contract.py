"""The extractor contract: a card that can be listed for nothing, and the extractor it builds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip, Level, Modality
from mer_plugins.pooling import pool_rows, pooled_shape

if TYPE_CHECKING:
    from mer_plugins.adapters import Adapter

Input = TypeVar("Input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can say about any extractor; `extra` holds the `--option name=value` of the one at hand.

    Attributes:
        model: Hub id or local path of the checkpoint; None takes the card's own.
        revision: Pinned hub revision.
        layers: `last`, `last4`, one layer `k`, a band `i-j` (all summed, as in the MERTools baseline),
            `weighted:w0,w1,…` (all summed, each times its weight), or `all` (a layer axis). Layer 0 is the
            input of the first transformer block.
        device: torch device; `auto` takes a GPU where there is one.
        dtype: Compute dtype of a neural encoder.
        adapter: A LoRA or the like to put into the checkpoint; `mer_plugins.adapters.find` gets it.
        others: With an adapter of several folds, what the clips in none of them get: `mean` of the folds'
            features, or those of the weights trained on `all` data; None takes `all` where there are such.
        trust_remote_code: Run the Python code beside the checkpoint's weights; part of the fingerprint.
        extra: The extractor's own options.
    """

    model: str | None = None
    revision: str | None = None
    layers: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    adapter: "Adapter | None" = None
    others: str | None = None
    trust_remote_code: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorCard:
    """What is known of an extractor before anything heavy is imported.

    Attributes:
        name: As typed after `--plugin`.
        modality: What it reads.
        levels: What it can give; the first is the default.
        summary: One line for `mer-fs plugins`.
        build: Makes the extractor from options (an `Extractor` subclass will do); light, since a second run
            that finds nothing to do builds it too.
        requires: Import names it needs beyond the core, e.g. `("cv2",)`.
        install: How to get them, e.g. `pip install 'mer-fs[video]'`.
        options: Its own options with defaults and a word on each, `{name: (default, help)}`.
        model: Hub id of the checkpoint taken when `--model` is not given; empty when there is none.
        needs_model: Whether it must be given a checkpoint (`--model`).
        layers: Default of `--layers`; empty when the extractor has no layers to choose from.
        takes_adapter: Whether `--adapter` means anything to it.
        takes_code: Whether it can open checkpoints that need the code beside their weights.
        adapter: Name of the store's adapter taken when `--adapter` is not given; it needs one then.
    """

    name: str
    modality: Modality
    levels: tuple[Level, ...]
    summary: str
    build: Callable[[Options], "Extractor[Any]"]
    requires: tuple[str, ...] = ()
    install: str = ""
    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    model: str = ""
    needs_model: bool = False
    layers: str = ""
    takes_adapter: bool = False
    takes_code: bool = False
    adapter: str = ""

    @property
    def takes_model(self) -> bool:
        """Whether `--model` means anything to it."""
        return bool(self.model) or self.needs_model


class Extractor(ABC, Generic[Input]):
    """Turns clips of one modality into rows of features.

    The pipeline calls `load` once, then `prepare` in worker threads (decode, crop, plain numpy; no torch) and
    `encode` on batches of prepared inputs of like cost in the main thread, `pool` on each result for the
    utterance level, `frame_rows` for the frame level, and `close` at the end.

    Attributes:
        row_shape: Shape of one row of `encode`: `(D,)`, or `(L, D)` with a layer axis.
        version: Raised whenever the same settings give other values than before; part of the fingerprint.
        pooling: How `pool` makes one row of many; part of the fingerprint of utterance-level spaces.
        frame_hz: Rows per second of media, for estimates; None when there is no such thing.
        batch_cost: How much `cost` one batch may hold; `--batch` overrides it.
        parents: Committed things the features stand on, e.g. `adapters/hubert-large-lora`.
    """

    row_shape: tuple[int, ...]
    version: int = 1
    pooling: str = "mean"
    frame_hz: float | None = None
    batch_cost: float = 16.0
    parents: tuple[str, ...] = ()

    @abstractmethod
    def made_by(self) -> Mapping[str, Any]:
        """Return every setting that decides the values of frames, as JSON, without loading the model.

        The pipeline adds the plugin's name, `version` and, for utterance-level spaces, `pooling`.
        """

    def load(self) -> None:
        """Bring weights into memory; called once, before the first `prepare`."""

    @abstractmethod
    def prepare(self, clip: Clip) -> Input:
        """Decode one clip; raise `ClipError` with the reason when that cannot be done. Runs in threads."""

    def cost(self, prepared: Input) -> float:  # noqa: ARG002 - for children to use
        """Return what one input costs in a batch (seconds, tokens …); inputs of like cost go together."""
        return 1.0

    def seconds(self, prepared: Input) -> float:  # noqa: ARG002 - for children to use
        """Return the seconds of media behind one input, for the report; NaN when there is no such thing."""
        return math.nan

    @abstractmethod
    def encode(self, batch: Sequence[Input]) -> list[NDArray[np.float32]]:
        """Return `[T_i, *row_shape]` float32 per input, the same whatever else is in the batch."""

    def arrange(self, clips: "Sequence[Clip]") -> "Sequence[Clip]":
        """Return the clips to be done in the order in which they are best done."""
        return clips

    def frame_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is kept at the frame level, `[T, *frame_shape]` float32, of `[T, *row_shape]`."""
        return rows

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of a row at the frame level."""
        return self.row_shape

    def pool(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the utterance's row `[*utt_shape]` float32 from `[T, *row_shape]`, T > 0."""
        return pool_rows(self.pooling, rows)

    @property
    def utt_shape(self) -> tuple[int, ...]:
        """Shape of the utterance's row."""
        return pooled_shape(self.pooling, self.row_shape)

    def close(self) -> None:
        """Let go of what `load` took."""
