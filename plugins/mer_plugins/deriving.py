"""Spaces computed from other spaces: a projection of every row, a mix of layers, frames pooled.

A derived space is a space like any other. Its fingerprint names the operation, what decides its values and
the fingerprint of the space it was computed from; its parents are that space and the adapter, if any. Rows
are read, computed and written in pieces, and what is there already is not computed again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.errors import BadInput, StoreError, UnknownName, suggest
from mer_featurestore.records import LEVEL_SUFFIX, Ragged, SpaceSpec
from mer_plugins.adapter_files import CARD, PROJECTION
from mer_plugins.adapters import find
from mer_plugins.errors import PluginError
from mer_plugins.interrupts import graceful
from mer_plugins.operations import Mix, Operation, Project, Rows
from mer_plugins.plan import DEFAULT_DTYPE, StoredType, stem_of
from mer_plugins.projection import Projection

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.spaces import FeatureSpace

VERSION = 1  # raised whenever an operation gives other values than before
PIECE_BYTES = 64 << 20
COMMIT_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class DeriveReport:
    """What was derived.

    Attributes:
        space: The derived space.
        source: What it was computed from.
        operation: What was done, as the fingerprint says it.
        fingerprint: Of the derived space.
        row_shape: Of its rows.
        there: Clips it had already.
        added: Clips added now.
        failed: Key -> reason of clips quarantined now.
        seconds: Wall time.
        interrupted: Whether it was told to stop; what is done is committed.
        adapter: Adapter that was used or fitted; empty for none.
    """

    space: str
    source: str
    operation: Mapping[str, Any]
    fingerprint: str
    row_shape: tuple[int, ...]
    there: int = 0
    added: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    adapter: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        names = ("space", "source", "fingerprint", "there", "added", "failed", "interrupted", "adapter")
        plain = {name: getattr(self, name) for name in names}
        operation, shape = dict(self.operation), list(self.row_shape)
        return {**plain, "operation": operation, "row_shape": shape, "seconds": round(self.seconds, 3)}


def find_source(store: "Store", name: str) -> "FeatureSpace":
    """Return a space to compute from.

    Raises:
        UnknownName: There is none of that name.
    """
    if name not in store.features:
        remedy = suggest(name, store.features) if len(store.features) else "extract some: mer-fs extract"
        raise UnknownName("feature space", name, store.features, remedy)
    return store.features[name]


def project(store: "Store", adapter: str) -> Project:
    """Return the projection of an adapter in the store.

    Raises:
        UnknownName: There is no such adapter.
        PluginError: It has no projection, or changes the encoder as well.
    """
    bundle = store.adapters[adapter]
    if PROJECTION not in bundle.files:
        raise PluginError(
            f"adapter {adapter} changes an encoder and projects no rows",
            f"extract with it: mer-fs extract --adapter {adapter}",
        )
    if any(file.endswith(".safetensors") and file != PROJECTION for file in bundle.files):
        raise PluginError(
            f"adapter {adapter} changes the encoder before it projects, so stored rows are not what it takes",
            f"extract with it: mer-fs extract --adapter {adapter}",
        )
    card = bundle.json(CARD) if CARD in bundle.files else {}
    sha256 = bundle.entry.files[PROJECTION]["sha256"]
    projection = Projection.read(find(store, adapter).folder / PROJECTION)
    return Project(adapter, projection, sha256, card.get("rows") or {})


def mix(store: "Store", source: str, which: str) -> Mix:
    """Return the mix of layers of a space; see `Mix`."""
    return Mix(which, find_source(store, source).spec.row_shape[0])


def spec_of(source: SpaceSpec, name: str, operation: Operation, dtype: StoredType | None = None) -> SpaceSpec:
    """Return the specification of a derived space.

    Args:
        source: Of the space it is computed from.
        name: Stem of its name; `-UTT` or `-FRA` is added as its level is.
        operation: What is done.
        dtype: Stored type; None is float32 for utterances and float16 for frames.

    Raises:
        PluginError: The operation cannot be done to such rows.
    """
    level = operation.level(source)
    return SpaceSpec(
        name=f"{stem_of(name)}-{LEVEL_SUFFIX[level]}",
        modality=source.modality,
        level=level,
        row_shape=operation.shape(source),
        dtype=dtype or DEFAULT_DTYPE[level],
        made_by={
            **operation.made_by(),
            "version": VERSION,
            "source": source.name,
            "source_fingerprint": source.fingerprint,
        },
        parents=(f"features/{source.name}", *operation.parents),
    )


def derive(
    store: "Store",
    source: str,
    name: str,
    operation: Operation,
    *,
    dtype: StoredType | None = None,
    command: str = "",
    message: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> DeriveReport:
    """Compute a space from another, as far as it is not there yet.

    Clips that the source does not have are simply absent, and come with the next call after the source has
    them. A clip whose result cannot be stored (no frames to pool, values beyond the stored type) is
    quarantined with the reason. Ctrl-C commits what is whole.

    Args:
        store: The store.
        source: The space to compute from.
        name: Stem of the new space's name.
        operation: What to do: `project`, `mix` or `operations.Pool`.
        dtype: Stored type; None is float32 for utterances and float16 for frames.
        command: For the journal.
        message: For the journal.
        progress: Told clips done, of how many.

    Raises:
        UnknownName: No such space, layer or pooling.
        PluginError: The operation cannot be done to such rows.
        FingerprintMismatch: A space of that name was made otherwise.
    """
    space = find_source(store, source)
    spec = spec_of(space.spec, name, operation, dtype)
    if spec.name == source:
        raise StoreError(f"{source} cannot be derived from itself", "choose another name: --as NAME")
    report = DeriveReport(
        space=spec.name,
        source=source,
        operation=operation.made_by(),
        fingerprint=spec.fingerprint,
        row_shape=spec.row_shape,
        adapter=operation.name if isinstance(operation, Project) else "",
    )
    start = time.perf_counter()
    with graceful() as stop, store.features.writer(spec, command=command, message=message) as writer:
        todo = _todo(store, space, spec.name)
        report.there = len(space) - len(todo)
        since = time.monotonic()
        for keys, packed in pieces(space, todo):
            for key, rows in zip(keys, operation.clips(packed), strict=True):
                try:
                    writer.add(key, _checked(rows, spec))
                    report.added += 1
                except BadInput as error:
                    writer.quarantine(key, error.message)
                    report.failed[key] = error.message
            if progress is not None:
                progress(report.added + len(report.failed), len(todo))
            if stop.asked:
                break
            if time.monotonic() - since >= COMMIT_SECONDS:
                writer.flush()
                since = time.monotonic()
        report.interrupted = stop.asked and report.added + len(report.failed) < len(todo)
    report.seconds = time.perf_counter() - start
    return report


def pieces(
    space: "FeatureSpace", keys: Sequence[str], piece_bytes: int | None = None
) -> Iterator[tuple[list[str], Ragged]]:
    """Yield clips of a space in pieces of about so many bytes, in the order given."""
    if not keys:
        return
    row = int(np.prod(space.spec.row_shape)) * space.dtype.itemsize
    lengths = space.lengths(keys)
    place = (np.cumsum(lengths) - lengths) * row // (piece_bytes or PIECE_BYTES)
    starts = np.flatnonzero(np.diff(place, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        part = list(keys[start:stop])
        yield part, space.read(part)


def _todo(store: "Store", source: "FeatureSpace", name: str) -> list[str]:
    keys = source.keys()
    if name in store.features:
        keys = store.features[name].missing(keys)
    failed = store.features.quarantine(name)
    return [key for key in keys if key not in failed]


def _checked(rows: Rows, spec: SpaceSpec) -> Rows:
    if spec.level == "utt" and not len(rows):
        raise BadInput("the source has no frames to pool")
    return rows
