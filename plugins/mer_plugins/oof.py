"""Extraction with an adapter that has folds or a projection, round any extractor.

An adapter trained on labels knows the labels it has seen, and so do its features. One with folds has, for
each labelled clip, weights that never saw that clip's label: the clip is encoded with those. Clips in no fold
get the mean of the folds' features (row by row, before pooling) or the features of the weights trained on all
data. A projection maps each row of the features, and the pooled row for the utterance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.adapters import Adapter
from mer_plugins.contract import Extractor, Options
from mer_plugins.errors import PluginError
from mer_plugins.projection import Projection
from mer_plugins.transformer import TransformerExtractor

Rows = NDArray[np.float32]


class Sorted(NamedTuple):
    """A clip's prepared input with the fold whose weights have not seen its label; None: in no fold."""

    fold: int | None
    value: Any


def with_adapter(build: Callable[[Options], Extractor[Any]], options: Options) -> Extractor[Any]:
    """Build an extractor whose options name an adapter, with what the adapter needs round it.

    Raises:
        PluginError: The adapter has folds or a projection that do not go with the extractor, or `others`
            makes no sense for it.
    """
    if options.adapter is None:
        return build(options)
    adapter = options.adapter.for_others(options.others)
    extractor = build(replace(options, adapter=adapter))
    if adapter.folds:
        extractor = OutOfFold(extractor, adapter)
    if adapter.projection:
        extractor = Projected(extractor, Projection.read(adapter.projection))
    return extractor


class Wrapper(Extractor[Any]):
    """An extractor round another, the same in everything it does not change.

    Args:
        inner: The other one.
    """

    def __init__(self, inner: Extractor[Any]) -> None:
        self.inner = inner
        self.row_shape, self.version, self.pooling = inner.row_shape, inner.version, inner.pooling
        self.frame_hz, self.batch_cost, self.parents = inner.frame_hz, inner.batch_cost, inner.parents

    def made_by(self) -> Mapping[str, Any]:
        """Return what the other one says, in which its adapter is."""
        return self.inner.made_by()

    def load(self) -> None:
        """Load the other one."""
        self.inner.load()

    def arrange(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """Return the other one's order."""
        return self.inner.arrange(clips)

    def prepare(self, clip: Clip) -> Any:
        """Return the other one's input."""
        return self.inner.prepare(clip)

    def cost(self, prepared: Any) -> float:
        """Return the other one's cost."""
        return self.inner.cost(prepared)

    def seconds(self, prepared: Any) -> float:
        """Return the other one's seconds."""
        return self.inner.seconds(prepared)

    def encode(self, batch: Sequence[Any]) -> list[Rows]:
        """Return the other one's rows."""
        return self.inner.encode(batch)

    def frame_rows(self, rows: Rows) -> Rows:
        """Return the other one's frames."""
        return self.inner.frame_rows(rows)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of a row at the frame level."""
        return self.inner.frame_shape

    def pool(self, rows: Rows) -> Rows:
        """Return the other one's utterance row."""
        return self.inner.pool(rows)

    @property
    def utt_shape(self) -> tuple[int, ...]:
        """Shape of the utterance's row."""
        return self.inner.utt_shape

    def close(self) -> None:
        """Close the other one."""
        self.inner.close()


class OutOfFold(Wrapper):
    """Encodes each clip with the weights of its fold, which have not seen its label.

    Args:
        inner: The encoder, built with the adapter.
        adapter: With folds, and with it settled what others get.

    Raises:
        PluginError: The encoder is of a kind that cannot exchange an adapter's weights.
    """

    def __init__(self, inner: Extractor[Any], adapter: Adapter) -> None:
        super().__init__(inner)
        if not isinstance(inner, TransformerExtractor):
            raise PluginError(
                f"adapter {adapter.name} has folds, which {type(inner).__name__} cannot exchange",
                "use an adapter without folds",
            )
        self.encoder: TransformerExtractor[Any] = inner
        self.adapter = adapter

    def arrange(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """Return the clips fold by fold, so that weights change seldom; those in no fold come last."""
        folds = self.adapter.assignment
        return sorted(
            self.inner.arrange(clips), key=lambda clip: folds.get(clip.key, len(self.adapter.folds))
        )

    def prepare(self, clip: Clip) -> Sorted:
        """Return the encoder's input with the clip's fold."""
        return Sorted(self.adapter.assignment.get(clip.key), self.inner.prepare(clip))

    def cost(self, prepared: Sorted) -> float:
        """Return what it costs in a batch."""
        return self.inner.cost(prepared.value)

    def seconds(self, prepared: Sorted) -> float:
        """Return its seconds."""
        return self.inner.seconds(prepared.value)

    def encode(self, batch: Sequence[Sorted]) -> list[Rows]:
        """Return `[T_i, *row_shape]` per input, each by the weights of its fold."""
        out: list[Rows] = [np.empty(0, np.float32)] * len(batch)
        for fold in sorted({one.fold for one in batch}, key=lambda fold: (fold is None, fold)):
            places = [i for i, one in enumerate(batch) if one.fold == fold]
            values = [batch[i].value for i in places]
            rows = self._others(values) if fold is None else self._by(fold, values)
            for i, found in zip(places, rows, strict=True):
                out[i] = found
        return out

    def _by(self, fold: int | None, values: Sequence[Any]) -> list[Rows]:
        if self.encoder.switch is None:
            raise PluginError(f"{type(self.encoder).__name__} has no weights of folds", "load it first")
        self.encoder.switch.use(fold)
        return self.encoder.encode(values)

    def _others(self, values: Sequence[Any]) -> list[Rows]:
        if self.adapter.others == "all":
            return self._by(None, values)
        each = [self._by(fold, values) for fold in range(len(self.adapter.folds))]
        return [_mean(rows) for rows in zip(*each, strict=True)]


def _mean(each: Sequence[Rows]) -> Rows:
    mean: Rows = np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


class Projected(Wrapper):
    """Maps rows into another space, behind everything else.

    Args:
        inner: Gives rows `[T, D_in]`.
        projection: From D_in to D_out.

    Raises:
        PluginError: The rows have a layer axis, or another width.
    """

    def __init__(self, inner: Extractor[Any], projection: Projection) -> None:
        super().__init__(inner)
        self.projection = projection
        if inner.frame_shape != (projection.widths[0],):
            self._shape(inner.utt_shape)

    def frame_rows(self, rows: Rows) -> Rows:
        """Return `[T, D_out]`, each row mapped."""
        return self.projection(self.inner.frame_rows(rows))

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """`(D_out,)`."""
        return self._shape(self.inner.frame_shape)

    def pool(self, rows: Rows) -> Rows:
        """Return `[D_out]`: the pooled row, mapped."""
        return self.projection(self.inner.pool(rows))

    @property
    def utt_shape(self) -> tuple[int, ...]:
        """`(D_out,)`."""
        return self._shape(self.inner.utt_shape)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        takes, gives = self.projection.widths
        if shape != (takes,):
            told = " x ".join(map(str, shape))
            raise PluginError(
                f"the adapter's projection takes rows of {takes} numbers, and these are {told}",
                "use the encoder, the --layers and the pooling that it was trained on",
            )
        return (gives,)
