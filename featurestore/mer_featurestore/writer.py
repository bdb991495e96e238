"""Appending to feature spaces: clips are buffered in memory, packed into fragments and committed together."""

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, FingerprintMismatch, StoreError
from mer_featurestore.fragments import spec_from_json, write_fragment
from mer_featurestore.groups import Blocks, find_backend
from mer_featurestore.index import KeyIndex, encode_keys, hash_keys
from mer_featurestore.journal import Change, Entry, Snapshot
from mer_featurestore.names import check_key, check_name
from mer_featurestore.records import LEVEL_SUFFIX, MODALITIES, SpaceSpec, canonical_json

if TYPE_CHECKING:
    from mer_featurestore.store import Store

FRAGMENT_BYTES = 1 << 28


class FeatureWriter:
    """Adds clips to one or more spaces; a context manager, for one thread.

    What `add` was given is in memory until `flush`, which makes one commit for all spaces; it happens by
    itself when a buffer is full, and on leaving the `with` block. Leaving it with an error drops what is not
    flushed, except on Ctrl-C (`KeyboardInterrupt`) or `SystemExit`: then whole clips are kept.

    A key is stored once per space: one that the space has already, or that another writer commits first, is
    passed over and counted in `skipped`.

    Attributes:
        specs: The spaces.
        skipped: Clips that were passed over, per space.
    """

    def __init__(
        self,
        store: "Store",
        specs: Sequence[SpaceSpec],
        command: str,
        message: str,
        backend: str,
        codec: str | None,
        fragment_bytes: int = FRAGMENT_BYTES,
    ) -> None:
        if not specs:
            raise BadInput("a writer needs at least one space")
        for spec in specs:
            check_spec(spec)
        self._codec = find_backend(backend).check_codec(codec)
        self._store, self._command, self._message, self._backend = store, command, message, backend
        self.specs = tuple(specs)
        self._buffers = [_Buffer(spec, fragment_bytes) for spec in specs]
        self._whole = [0] * len(specs)  # clips of each buffer that all spaces have been given
        self._reasons: dict[str, dict[str, str]] = {}
        self.skipped = {spec.name: 0 for spec in specs}
        for spec in specs:
            check_fingerprint(spec, store.snapshot)

    def add(self, key: str, *arrays: NDArray[Any] | None) -> None:
        """Add a clip.

        Args:
            key: Of the clip.
            arrays: One for each space in their order: `[T, *row_shape]` (utterance level: T = 1 or no such
                axis), T may be 0; None leaves the clip out of that space. Any float or integer type;
                values are stored in the space's type.

        Raises:
            BadInput: Wrong number or shape of arrays, NaN or infinite values (or too large for float16), a
                key that was added before. Nothing is added then.
            BadName: The key cannot be stored.
        """
        check_key(key)
        if len(arrays) != len(self._buffers):
            raise BadInput(f"{key}: {len(arrays)} arrays for {len(self._buffers)} spaces")
        checked = [
            None if array is None else buffer.checked(key, array)
            for buffer, array in zip(self._buffers, arrays, strict=True)
        ]
        if any(b.full(a) for b, a in zip(self._buffers, checked, strict=True) if a is not None):
            self.flush()
        for buffer, array in zip(self._buffers, checked, strict=True):
            if array is not None:
                buffer.put(key, array)
        self._whole = [len(buffer.keys) for buffer in self._buffers]

    def quarantine(self, key: str, reason: str, *spaces: str) -> None:
        """Note with the next commit that a clip cannot be made into features, and why.

        Args:
            key: Of the clip.
            reason: One line for people.
            spaces: Which spaces; all of this writer by default.
        """
        check_key(key)
        for space in spaces or tuple(self.skipped):
            self._reasons.setdefault(space, {})[key] = reason

    def flush(self) -> int | None:
        """Commit everything added so far, all spaces in one commit.

        Returns:
            The commit's number, None when there was nothing to commit.

        Raises:
            FingerprintMismatch: Another writer has made a space of that name by another configuration.
            StoreError: No permission, no space left.
        """
        if not self._reasons and not any(buffer.keys for buffer in self._buffers):
            return None
        before = self._store.commit
        written = _Written(self._store, self._backend, self._codec)

        def build(snapshot: Snapshot) -> Change:
            return self._change(snapshot, written)

        try:
            number = self._store.write(build, command=self._command, message=self._message).number
        except BaseException:
            written.discard(())
            raise
        written.discard(written.last)
        for buffer, entry in zip(self._buffers, written.last, strict=True):
            self.skipped[buffer.spec.name] += len(buffer.keys) - (entry.attrs["clips"] if entry else 0)
            buffer.clear()
        self._whole, self._reasons = [0] * len(self._buffers), {}
        return number if number != before else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, (KeyboardInterrupt, SystemExit)):
            for buffer, whole in zip(self._buffers, self._whole, strict=True):
                buffer.truncate(whole)
            self.flush()

    def _change(self, snapshot: Snapshot, written: "_Written") -> Change:
        """Return the change for a snapshot, writing the fragments without the keys it has already."""
        quarantine: dict[str, dict[str, str | None]] = {
            space: dict(keys) for space, keys in self._reasons.items()
        }
        entries: list[Entry | None] = []
        for buffer in self._buffers:
            check_fingerprint(buffer.spec, snapshot)
            snapshot.check_parents(buffer.spec.parents)
            taken = self._taken(buffer, snapshot)
            entries.append(written.entry(buffer, taken))
            name = buffer.spec.name
            lifted = snapshot.quarantine(name).keys() & set(buffer.keys)
            quarantine.setdefault(name, {}).update(dict.fromkeys(sorted(lifted)))
        written.last = entries
        return Change(
            add=[e for e in entries if e is not None], quarantine={s: k for s, k in quarantine.items() if k}
        )

    def _taken(self, buffer: "_Buffer", snapshot: Snapshot) -> frozenset[int]:
        """Return the buffered clips whose keys a snapshot's space has."""
        coded = encode_keys(buffer.keys)
        hashes = hash_keys(coded)
        found = np.zeros(len(coded), bool)
        for fragment in self._store.features.fragments(buffer.spec.name, snapshot):
            found |= KeyIndex([fragment]).find_hashed(coded, hashes) >= 0
        return frozenset(np.flatnonzero(found).tolist())


class _Written:
    """Fragments written for one commit: each once, again only when other keys must be left out."""

    def __init__(self, store: "Store", backend: str, codec: str | None) -> None:
        self._store, self._backend, self._codec = store, backend, codec
        self._entries: dict[tuple[str, frozenset[int]], Entry] = {}
        self.last: list[Entry | None] = []

    def entry(self, buffer: "_Buffer", without: frozenset[int]) -> Entry | None:
        """Return the entry of a buffer's fragment without some of its clips; None when none are left."""
        if len(without) == len(buffer.keys):
            return None
        made = self._entries.get((buffer.spec.name, without))
        if made is None:
            keys, lengths, data = buffer.packed(without)
            made = write_fragment(
                self._store.storage, self._backend, buffer.spec, keys, lengths, data, codec=self._codec
            )
            self._entries[buffer.spec.name, without] = made
        return made

    def discard(self, keep: Sequence[Entry | None]) -> None:
        """Delete fragments that no commit names; what cannot be deleted now is left to gc."""
        kept = {entry.path for entry in keep if entry is not None}
        for entry in self._entries.values():
            if entry.path not in kept:
                with contextlib.suppress(OSError, StoreError):
                    self._store.storage.delete(entry.file_names())


class _Buffer:
    """Clips of one space on their way into a fragment."""

    def __init__(self, spec: SpaceSpec, fragment_bytes: int) -> None:
        self.spec, self.dtype = spec, np.dtype(spec.dtype)
        one = int(np.prod(spec.row_shape, dtype=np.int64)) * self.dtype.itemsize
        self._capacity = max(1, fragment_bytes // one)
        self._data = np.empty((0, *spec.row_shape), self.dtype)
        self.keys: list[str] = []
        self._known: set[str] = set()
        self._ends: list[int] = [0]

    def checked(self, key: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array as `[T, *row_shape]` in the stored type; BadInput when it cannot be."""
        where = f"{key} for the space {self.spec.name}"
        if key in self._known:
            raise BadInput(f"{where}: added twice", "add each clip once")
        given = np.asarray(array)
        row = self.spec.row_shape
        if self.spec.level == "utt" and given.shape == row:
            given = given[None]
        if given.dtype.kind not in "fiu" or given.shape[1:] != row or given.ndim != len(row) + 1:
            expected = ", ".join(["T", *map(str, row)])
            raise BadInput(
                f"{where}: an array {given.dtype}{list(given.shape)} where numbers [{expected}] belong"
            )
        if self.spec.level == "utt" and len(given) != 1:
            raise BadInput(f"{where}: {len(given)} rows", "an utterance-level space has one row per clip")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused below
            stored = np.ascontiguousarray(given, self.dtype)
        if not is_finite(stored):
            raise BadInput(
                f"{where}: {_not_finite(given, self.dtype)}", "leave the clip out or quarantine it"
            )
        return stored

    def full(self, array: NDArray[Any]) -> bool:
        """Say whether the clip does not fit any more."""
        return bool(self.keys) and self._ends[-1] + len(array) > self._capacity

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Append a checked clip."""
        start, end = self._ends[-1], self._ends[-1] + len(array)
        if end > len(self._data):
            # Memory that is not touched yet costs nothing, so the whole fragment's room is taken at once.
            larger = np.empty((max(end, self._capacity), *self._data.shape[1:]), self.dtype)
            larger[:start] = self._data[:start]
            self._data = larger
        self._data[start:end] = array
        self._ends.append(end)
        self._known.add(key)
        self.keys.append(key)

    def truncate(self, clips: int) -> None:
        """Drop all but the first clips."""
        self._known -= set(self.keys[clips:])
        del self.keys[clips:], self._ends[clips + 1 :]

    def clear(self) -> None:
        """Drop all clips, keep the memory."""
        self.truncate(0)

    def packed(self, without: frozenset[int]) -> tuple[list[str], NDArray[np.int64], "NDArray[Any] | Blocks"]:
        """Return keys, lengths and data but for some clips."""
        ends = np.array(self._ends, np.int64)
        lengths: NDArray[np.int64] = ends[1:] - ends[:-1]
        if not without:
            return list(self.keys), lengths, self._data[: self._ends[-1]]
        kept = [i for i in range(len(self.keys)) if i not in without]
        pieces = (self._data[self._ends[i] : self._ends[i + 1]] for i in kept)
        shape = (int(lengths[kept].sum()), *self._data.shape[1:])
        return [self.keys[i] for i in kept], lengths[kept], Blocks(shape, self.dtype, pieces)


def is_finite(array: NDArray[Any]) -> bool:
    """Say whether a float16 or float32 array has neither NaN nor infinity, at the speed of memory.

    Those have all exponent bits set, so without the sign they are the largest integers.
    """
    if array.dtype.itemsize == 2:
        return int((array.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0)) < 0x7C00
    return int((array.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(initial=0)) < 0x7F800000


def _not_finite(given: NDArray[Any], dtype: np.dtype[Any]) -> str:
    if given.dtype.kind != "f" or np.isfinite(given).all():
        return f"values up to {np.abs(given.astype(np.float64)).max():g} do not fit {dtype}"
    count = int((~np.isfinite(given)).sum())
    return f"{count} of {given.size} values are NaN or infinite"


def check_spec(spec: SpaceSpec) -> None:
    """Raise BadName or BadInput for a specification that cannot be a space."""
    check_name(spec.name, "feature space")
    if spec.modality not in MODALITIES or spec.level not in LEVEL_SUFFIX:
        raise BadInput(f"{spec.name}: no such modality or level: {spec.modality}, {spec.level}")
    if spec.dtype not in ("float16", "float32"):
        raise BadInput(
            f"{spec.name}: cannot store {spec.dtype}", "use float16 or float32 (bfloat16 fits float32)"
        )
    if not spec.row_shape or any(not isinstance(n, int) or n < 1 for n in spec.row_shape):
        raise BadInput(f"{spec.name}: {spec.row_shape} cannot be the shape of a row", "use (D,) or (L, D)")
    try:
        canonical_json(spec.identity())
    except (TypeError, ValueError) as error:
        raise BadInput(f"{spec.name}: made_by is not plain JSON: {error}") from error


def check_fingerprint(spec: SpaceSpec, snapshot: Snapshot) -> None:
    """Raise FingerprintMismatch when a snapshot has a space of that name that something else made."""
    entries = snapshot.entries("features", spec.name)
    if not entries or entries[0].attrs["fingerprint"] == spec.fingerprint:
        return
    stored = flat(spec_from_json(dict(entries[0].attrs["spec"])).identity())
    given = flat(spec.identity())
    rows = [(f, stored.get(f, "-"), given.get(f, "-")) for f in sorted(stored | given)]
    lines = [f"  {f}: {a} | {b}" for f, a, b in rows if a != b]
    raise FingerprintMismatch(
        "\n".join([f"the space {spec.name} was made by another configuration (stored | given):", *lines]),
        "store under another name (--as NAME), or give the same settings",
    )


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the leaves of a JSON document by dotted path, as JSON text."""
    leaves: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = canonical_json(value).decode()
    return leaves
