"""Appending to feature spaces: clips are buffered in memory, packed into fragments and committed together."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.buffers import Buffer
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import BadInput, FingerprintMismatch
from mer_featurestore.fragments import draft_fragment, spec_from_json
from mer_featurestore.groups import find_backend
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
        self._buffers = [Buffer(spec, fragment_bytes) for spec in specs]
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
                self._reasons.get(buffer.spec.name, {}).pop(key, None)
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
        if not any(self._reasons.values()) and not any(buffer.keys for buffer in self._buffers):
            return None
        before, entries = self._store.commit, list[Entry | None]()

        def build(snapshot: Snapshot) -> Change:
            entries[:] = [self._entry(draft, buffer, snapshot) for buffer in self._buffers]
            return Change(
                add=[entry for entry in entries if entry is not None], quarantine=self._quarantine(snapshot)
            )

        with Draft(self._store, self._backend) as draft:
            number = self._store.write(build, command=self._command, message=self._message).number
            draft.keep(*entries)
        for buffer, entry in zip(self._buffers, entries, strict=True):
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

    def _entry(self, draft: Draft, buffer: Buffer, snapshot: Snapshot) -> Entry | None:
        """Return the entry of a buffer's fragment without the keys a snapshot has; None for none."""
        spec = buffer.spec
        check_fingerprint(spec, snapshot)
        snapshot.check_parents(spec.parents)
        taken = self._taken(buffer, snapshot)
        if len(taken) == len(buffer.keys):
            return None
        keys, lengths, data = buffer.packed(taken)
        return draft_fragment(draft, spec, keys, lengths, data, codec=self._codec, content=taken)

    def _quarantine(self, snapshot: Snapshot) -> dict[str, dict[str, str | None]]:
        """Return the reasons to note, and None for clips that are no longer without features."""
        changes: dict[str, dict[str, str | None]] = {s: dict(keys) for s, keys in self._reasons.items()}
        for buffer in self._buffers:
            name = buffer.spec.name
            lifted = snapshot.quarantine(name).keys() & set(buffer.keys)
            changes.setdefault(name, {}).update(dict.fromkeys(sorted(lifted)))
        return {space: keys for space, keys in changes.items() if keys}

    def _taken(self, buffer: Buffer, snapshot: Snapshot) -> frozenset[int]:
        """Return the buffered clips whose keys a snapshot's space has."""
        coded = encode_keys(buffer.keys)
        hashes = hash_keys(coded)
        found = np.zeros(len(coded), bool)
        for fragment in self._store.features.fragments(buffer.spec.name, snapshot):
            found |= KeyIndex([fragment]).find_hashed(coded, hashes) >= 0
        return frozenset(np.flatnonzero(found).tolist())


def check_spec(spec: SpaceSpec) -> None:
    """Raise BadName or BadInput for a specification that cannot be a space."""
    check_name(spec.name, "feature space")
    if spec.modality not in MODALITIES or spec.level not in LEVEL_SUFFIX:
        raise BadInput(f"{spec.name}: no such modality or level: {spec.modality}, {spec.level}")
    if spec.dtype not in ("float16", "float32"):
        raise BadInput(
            f"{spec.name}: cannot store {spec.dtype}", "use float16 or float32 (bfloat16 fits float32)"
        )
    sizes = spec.row_shape if isinstance(spec.row_shape, tuple) else ()
    if not sizes or any(not isinstance(n, int) or n < 1 for n in sizes):
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
    stored = flat(spec_from_json(entries[0].attrs["spec"]).identity())
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
