"""What can be done to the rows of a space to make another: project them, mix layers, pool frames."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_featurestore.records import Level, Ragged, SpaceSpec, canonical_json
from mer_plugins.errors import PluginError
from mer_plugins.layers import Layers, parse_layers
from mer_plugins.pooling import POOLINGS, pool_rows, pooled_shape
from mer_plugins.projection import Projection

Rows = NDArray[Any]
# What differs between the levels of one extraction, and between rates of frames, but not in what rows mean.
_OF_THE_LEVEL = ("pooling", "frame_hz")


class Operation(ABC):
    """What is done to the rows of each clip.

    Attributes:
        parents: Committed things it stands on besides the source.
    """

    parents: tuple[str, ...] = ()

    @abstractmethod
    def made_by(self) -> dict[str, Any]:
        """Return what decides its values, for the fingerprint."""

    @abstractmethod
    def shape(self, source: SpaceSpec) -> tuple[int, ...]:
        """Return the shape of a row it makes of a source's; raise PluginError where it cannot."""

    @abstractmethod
    def apply(self, rows: Rows) -> Rows:
        """Map the rows of many clips `[ΣT, *source]` to float32 `[ΣT, *result]`, each by itself."""

    def level(self, source: SpaceSpec) -> Level:
        """Return the level of the result."""
        return source.level

    def clips(self, packed: Ragged) -> Iterator[Rows]:
        """Yield the result of each clip."""
        yield from Ragged(self.apply(packed.data), packed.offsets)


@dataclass(frozen=True)
class Project(Operation):
    """Every row through an adapter's projection: an alignment head, principal components, standardisation.

    Attributes:
        name: The store's adapter.
        projection: What it does.
        sha256: Of its file.
        rows: The card's word on the rows it was made for; empty when it says nothing.
    """

    name: str
    projection: Projection
    sha256: str
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:  # type: ignore[override] # a constant of the class, or of the object
        """The adapter."""
        return (f"adapters/{self.name}",)

    def made_by(self) -> dict[str, Any]:
        """Return the hash of the weights; the adapter's name decides nothing."""
        return {"operation": "projection", "projection": self.sha256}

    def shape(self, source: SpaceSpec) -> tuple[int, ...]:
        """Return `(D_out,)`; refuse rows that the projection was not made for."""
        wide, gives = self.projection.widths
        if source.row_shape != (wide,):
            shape = " x ".join(map(str, source.row_shape))
            raise PluginError(
                f"adapter {self.name} projects rows of {wide}, and those of {source.name} are {shape}",
                f"derive from {self.rows.get('space', 'the space it was made for')}",
            )
        fitted = self.rows.get("made_by")
        if fitted is not None and fitted != meaning(source):
            raise PluginError(
                f"adapter {self.name} was made for rows like those of {self.rows.get('space')}, "
                f"and {source.name} was made otherwise",
                f"derive from {self.rows.get('space')}, or make an adapter for {source.name}",
            )
        return (gives,)

    def apply(self, rows: Rows) -> Rows:
        """Project."""
        return self.projection(rows.astype(np.float32, copy=False))


@dataclass(frozen=True)
class Mix(Operation):
    """The layers of a space that keeps all of them, summed as `--layers` of an extraction says.

    Attributes:
        which: `k`, `i-j`, `last`, `last4` or `weighted:w0,w1,…`; see `mer_plugins.layers`.
        count: Layers that the source keeps.
    """

    which: str
    count: int

    @cached_property
    def layers(self) -> Layers:
        """The layers meant.

        Raises:
            UnknownName: Not of the grammar, or a layer the source does not have.
            PluginError: `all`, which is what the source is.
        """
        layers = parse_layers(self.which, self.count - 1)
        if layers.mix == "stack":
            raise PluginError("--layers all is what the space is already", "say which: k, i-j or weighted:…")
        return layers

    def made_by(self) -> dict[str, Any]:
        """Return the layers and their weights."""
        return {"operation": "layers", **self.layers.made_by()}

    def shape(self, source: SpaceSpec) -> tuple[int, ...]:
        """Return `(D,)`; refuse a source without a layer axis."""
        if len(source.row_shape) != 2:
            raise PluginError(
                f"{source.name} keeps no layers: its rows have the shape {source.row_shape}",
                "extract them: mer-fs extract --layers all",
            )
        _ = self.layers
        return source.row_shape[-1:]

    def apply(self, rows: Rows) -> Rows:
        """Sum."""
        weights = np.zeros(self.count, np.float32)
        weights[list(self.layers.indices)] = self.layers.weights or 1.0
        mixed: Rows = np.einsum("nld,l->nd", rows.astype(np.float32, copy=False), weights)
        return mixed


@dataclass(frozen=True)
class Pool(Operation):
    """Frames to one row a clip.

    Attributes:
        how: One of `mer_plugins.pooling.POOLINGS`.
    """

    how: str

    def made_by(self) -> dict[str, Any]:
        """Return the pooling."""
        return {"operation": "pool", "pooling": self.how}

    def level(self, source: SpaceSpec) -> Level:
        """Return `utt`; refuse a source that is."""
        if source.level == "utt":
            raise PluginError(f"{source.name} has one row a clip already", "give its frame-level space")
        return "utt"

    def shape(self, source: SpaceSpec) -> tuple[int, ...]:
        """Return the pooled row's shape."""
        if self.how not in POOLINGS:
            raise UnknownName("pooling", self.how, POOLINGS)
        return pooled_shape(self.how, source.row_shape)

    def apply(self, rows: Rows) -> Rows:
        """Pool one clip's rows `[T, *row]`, T > 0, to `[1, *pooled]`."""
        return pool_rows(self.how, rows.astype(np.float32, copy=False))[None]

    def clips(self, packed: Ragged) -> Iterator[Rows]:
        """Yield each clip's row; none, `[0, …]`, of a clip without frames."""
        for rows in packed:
            yield self.apply(rows) if len(rows) else rows[:0]


def meaning(spec: SpaceSpec) -> dict[str, Any]:
    """Return what decides what a row of a space means, whether it is a frame's or a clip's, as JSON."""
    facts = {name: value for name, value in spec.made_by.items() if name not in _OF_THE_LEVEL}
    plain: dict[str, Any] = json.loads(canonical_json(facts))
    return plain
