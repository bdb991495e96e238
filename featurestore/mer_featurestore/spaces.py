"""Feature spaces: read features by key, packed or padded."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mer_featurestore.errors import BadInput, UnknownKey, UnknownName
from mer_featurestore.fragments import Fragment, spec_from_json
from mer_featurestore.gather import fill
from mer_featurestore.index import KeyIndex
from mer_featurestore.positional import Piece, Reader
from mer_featurestore.records import Ragged, SpaceSpec
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore.journal import Snapshot
    from mer_featurestore.store import Store
    from mer_featurestore.writer import FeatureWriter


class Spaces(Mapping[str, "FeatureSpace"]):
    """The feature spaces of a store, by name; follows the store from commit to commit."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._reader = Reader(store.storage)
        self._fragments: dict[str, Fragment] = {}
        self._opened: dict[str, FeatureSpace] = {}

    def __getitem__(self, name: str) -> "FeatureSpace":
        """Return a space as of the store's commit; it stays at that commit.

        Raises:
            UnknownName: There is none of that name.
        """
        snapshot = self._store.snapshot
        fragments = self.fragments(name, snapshot)
        if not fragments:
            raise UnknownName("feature space", name, self)
        opened = self._opened.get(name)
        if opened is None or opened.fragments != fragments or opened.commit != snapshot.number:
            known = opened is not None and opened.fragments == fragments
            index = opened.index if opened is not None and known else KeyIndex(fragments)
            opened = FeatureSpace(self._reader, name, index, snapshot)
            self._opened[name] = opened
        return opened

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.snapshot.names("features"))

    def __len__(self) -> int:
        return len(self._store.snapshot.names("features"))

    def __contains__(self, name: object) -> bool:
        return name in self._store.snapshot.names("features")

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} feature spaces", *(f"  {space!r}" for space in self.values())])

    def fragments(self, name: str, snapshot: "Snapshot") -> list[Fragment]:
        """Return the fragments of a space in a snapshot, none for an unknown name; opened ones are reused."""
        found = []
        for entry in snapshot.entries("features", name):
            if entry.path not in self._fragments:
                self._fragments[entry.path] = Fragment(self._store.storage, entry)
            found.append(self._fragments[entry.path])
        return found

    def quarantine(self, space: str) -> dict[str, str]:
        """Return key -> reason of the clips that could not be made into features of this space."""
        return self._store.snapshot.quarantine(space)

    def writer(
        self,
        *specs: SpaceSpec,
        command: str = "",
        message: str = "",
        backend: str | None = None,
        codec: str | None = None,
    ) -> "FeatureWriter":
        """Return a writer for one space, or for several that are filled clip by clip together.

        Args:
            specs: The spaces; new ones come into being with their first commit.
            command: Command line or call, for the journal.
            message: Free text, for the journal.
            backend: `zarr` or `hdf5`; the store's own by default. Spaces may mix them.
            codec: Compression (`zstd`, `blosc`, `gzip` …, see the backend); none by default.

        Raises:
            FingerprintMismatch: A space of that name was made by another configuration.
            BadName, BadInput, UnknownName: A specification, backend or codec that cannot be.
        """
        from mer_featurestore.writer import FeatureWriter

        return FeatureWriter(self._store, specs, command, message, backend or self._store.backend, codec)


class FeatureSpace:
    """Features of one configuration, read by key, at one commit.

    Reading holds no locks or threads, so it works in forked workers after the parent has read.

    Attributes:
        name: Of the space.
        spec: What made it.
        fragments: Where it lies.
        index: Finds clips in them by key.
        commit: Commit number.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        index: KeyIndex,
        snapshot: "Snapshot",
    ) -> None:
        self.name, self.index, self.commit = name, index, snapshot.number
        self.fragments = index.fragments
        self.spec: SpaceSpec = spec_from_json(self.fragments[0].entry.attrs["spec"])
        self._reader, self._quarantine = reader, snapshot.quarantine(name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what made it."""
        return self.spec.fingerprint

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Stored type."""
        return np.dtype(self.spec.dtype)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.entry.size for f in self.fragments)

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.index.find([key])[0] >= 0)

    def __repr__(self) -> str:
        row = " x ".join(map(str, self.spec.row_shape))
        rows = sum(f.rows for f in self.fragments)
        return (
            f"FeatureSpace({self.name!r}: {self.spec.modality}, {self.spec.level}, {len(self)} clips, "
            f"{rows} rows x {row} {self.spec.dtype}, {self.size / 1e6:.1f} MB, {self.fingerprint[:8]})"
        )

    def describe(self) -> dict[str, Any]:
        """Return what `mer-fs spaces` lists, as plain JSON."""
        entries = [fragment.entry for fragment in self.fragments]
        return {
            "name": self.name,
            "modality": self.spec.modality,
            "level": self.spec.level,
            "row_shape": list(self.spec.row_shape),
            "dtype": self.spec.dtype,
            "clips": len(self),
            "rows": sum(fragment.rows for fragment in self.fragments),
            "bytes": self.size,
            "fragments": len(entries),
            "files": sum(len(entry.files) for entry in entries),
            "stored": sorted({f"{e.backend}, {e.attrs['codec'] or 'not compressed'}" for e in entries}),
            "fingerprint": self.fingerprint,
            "quarantined": len(self._quarantine),
            "made_by": dict(self.spec.made_by),
            "parents": list(self.spec.parents),
        }

    def keys(self) -> list[str]:
        """Return all keys in store order, the order that reads fastest."""
        return [key for fragment in self.fragments for key in fragment.key_list()]

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that the space does not have, in the order given."""
        found = self.index.find(keys)
        return [key for key, number in zip(keys, found.tolist(), strict=True) if number < 0]

    def positions(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return each key's place in store order, int64 `[n]`; neighbours lie together on disk.

        Raises:
            UnknownKey: The space does not have a key.
        """
        found = self.index.find(keys)
        if len(found) and found.min() < 0:
            raise self._unknown([key for key, number in zip(keys, found.tolist(), strict=True) if number < 0])
        return found

    def lengths(self, keys: Sequence[str] | None = None, *, absent_ok: bool = False) -> NDArray[np.int64]:
        """Return the rows of each clip, int64 `[n]`, of all clips in store order by default.

        With `absent_ok`, a clip that the space does not have counts 0 rows.

        Raises:
            UnknownKey: The space does not have a key.
        """
        if keys is None:
            return np.concatenate([np.diff(f.offsets) for f in self.fragments])
        return self._located(keys, None, absent_ok)[2]

    def read(
        self,
        keys: Sequence[str],
        *,
        max_len: int | None = None,
        absent_ok: bool = False,
        out: NDArray[Any] | None = None,
    ) -> Ragged:
        """Return the features of clips, packed, in the order of the keys.

        Args:
            keys: Clips; one may come more than once.
            max_len: Rows of a clip beyond this are left out.
            absent_ok: Whether a clip that the space does not have has no rows instead of being an error.
            out: Memory to use again, a C-contiguous array of the stored type with room for all rows; the
                result is a view of it. A buffer that is used again saves the cost of fresh pages.

        Returns:
            `data [ΣT, *row_shape]` in the stored type and offsets.

        Raises:
            UnknownKey: The space does not have a key.
            BadInput: `out` has another type, is too small or not contiguous.
            Damaged: A file is missing, truncated or does not decode.
        """
        owners, rows, counts = self._located(keys, max_len, absent_ok)
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        data = self._room((int(offsets[-1]),), out)
        self._fill(owners, rows, counts, offsets[:-1] * self._row_bytes, data)
        return Ragged(data, offsets)

    @overload  # text is a sequence of text too, hence the
    def __getitem__(self, key: str) -> NDArray[Any]: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, key: Sequence[str]) -> Ragged: ...
    def __getitem__(self, key: str | Sequence[str]) -> NDArray[Any] | Ragged:
        """Return `[T, *row_shape]` of one clip, or several clips packed (see `read`)."""
        return self.read([key])[0] if isinstance(key, str) else self.read(list(key))

    def read_padded(
        self,
        keys: Sequence[str],
        *,
        dtype: DTypeLike | None = np.float32,
        max_len: int | None = None,
        absent_ok: bool = False,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the features of clips as one padded batch.

        Rows are read straight to their places in the stored type; the cast comes last.

        Args:
            keys: Clips, in any order.
            dtype: Type of the result; None keeps the stored one.
            max_len: Rows of a clip beyond this are left out.
            absent_ok: Whether a clip that the space does not have is all padding instead of an error.
            out: Memory to use again, of the stored type; without a cast the result is a view of it.

        Returns:
            `[B, T, *row_shape]`, zeros where a clip has ended, and the mask bool `[B, T]`, True for real
            rows. T is the longest clip's length, at least 1.

        Raises:
            UnknownKey, BadInput, Damaged: As `read`.
        """
        owners, rows, counts = self._located(keys, max_len, absent_ok)
        longest = max(1, int(counts.max(initial=0)))
        padded = self._room((len(counts), longest), out)
        self._fill(owners, rows, counts, np.arange(len(counts)) * (longest * self._row_bytes), padded)
        for i, count in enumerate(counts.tolist()):
            padded[i, count:] = 0
        mask = np.arange(longest) < counts[:, None]
        return (padded if dtype is None else padded.astype(dtype, copy=False)), mask

    def scan(self, clips: int = 64, *, out: NDArray[Any] | None = None) -> Iterator[tuple[list[str], Ragged]]:
        """Yield all clips in store order, some at a time: the fastest way through a whole space.

        Args:
            clips: How many at a time, fewer at the end of a fragment.
            out: As in `read`; each batch then overwrites the one before.

        Yields:
            Keys, and their features packed.

        Raises:
            BadInput, Damaged: As `read`.
        """
        for owner, fragment in enumerate(self.fragments):
            keys, offsets = fragment.key_list(), fragment.offsets
            for first in range(0, len(keys), clips):
                part = np.array(offsets[first : first + clips + 1])
                rows, counts = part[:1], part[-1:] - part[:1]
                data = self._room((int(counts[0]),), out)
                self._fill(np.array([owner]), rows, counts, np.zeros(1, np.int64), data)
                yield keys[first : first + clips], Ragged(data, part - part[0])

    def matrix(self, keys: Sequence[str] | None = None, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return an utterance-level space as one matrix.

        Args:
            keys: Which clips, in which order; all in store order by default.
            out: As in `read`.

        Returns:
            `[n, *row_shape]` in the stored type.

        Raises:
            BadInput: The space is frame-level, so clips have no single row.
            UnknownKey, Damaged: As `read`.
        """
        if self.spec.level != "utt":
            raise BadInput(f"{self.name} is frame-level; clips have many rows", "use read() or read_padded()")
        if keys is not None:
            return self.read(keys, out=out).data
        rows = np.array([f.rows for f in self.fragments], np.int64)
        targets = (np.cumsum(rows) - rows) * self._row_bytes
        data = self._room((int(rows.sum()),), out)
        self._fill(np.arange(len(rows)), np.zeros(len(rows), np.int64), rows, targets, data)
        return data

    @cached_property
    def _row_bytes(self) -> int:
        return int(np.prod(self.spec.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def _located(
        self, keys: Sequence[str], max_len: int | None, absent_ok: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return fragment, first row and number of rows of each clip; 0 rows where it is absent."""
        numbers = self.index.find(keys) if absent_ok else self.positions(keys)
        bases = self.index.bases
        owners = np.searchsorted(bases, numbers, side="right") - 1
        rows, counts = np.zeros_like(numbers), np.zeros_like(numbers)
        for owner in sorted(set(owners.tolist()) - {-1}):
            mine = owners == owner
            clips = numbers[mine] - bases[owner]
            offsets = self.fragments[owner].offsets
            rows[mine] = offsets[clips]
            counts[mine] = offsets[clips + 1] - rows[mine]
        return owners, rows, counts if max_len is None else np.minimum(counts, max_len)

    def _fill(
        self,
        owners: NDArray[np.int64],
        rows: NDArray[np.int64],
        counts: NDArray[np.int64],
        targets: NDArray[np.int64],
        data: NDArray[Any],
    ) -> None:
        """Read clips to the bytes `targets` of an array."""
        buffer = data.reshape(-1).view(np.uint8)
        pieces: list[Piece] = []
        for owner in sorted(set(owners[counts > 0].tolist())):
            mine = owners == owner
            places = (rows[mine].tolist(), counts[mine].tolist(), targets[mine].tolist())
            pieces += fill(self.fragments[owner], *places, buffer)
        self._reader.read(pieces, buffer.data)

    def _room(self, shape: tuple[int, ...], out: NDArray[Any] | None) -> NDArray[Any]:
        """Return an array `[*shape, *row_shape]` of the stored type, in `out` when it is given."""
        shape = (*shape, *self.spec.row_shape)
        if out is None:
            return np.empty(shape, self.dtype)
        need = int(np.prod(shape, dtype=np.int64))
        if out.dtype != self.dtype or not out.flags.c_contiguous or out.size < need:
            raise BadInput(
                f"out must be C-contiguous {self.dtype} with room for {need} values, "
                f"not {out.dtype} with {out.size}",
                "make it larger, e.g. for the longest clips of a batch",
            )
        return out.reshape(-1)[:need].reshape(shape)

    def _unknown(self, keys: list[str]) -> UnknownKey:
        shown = ", ".join(map(repr, keys[:3])) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        reasons = [f"{key!r}: {self._quarantine[key]}" for key in keys[:3] if key in self._quarantine]
        message = f"the space {self.name} has no features of {plural(len(keys), 'clip')}: {shown}"
        if reasons:
            return UnknownKey(
                f"{message} (in quarantine: {'; '.join(reasons)})", "try again with --retry-failed"
            )
        plugin = self.spec.made_by.get("plugin", "NAME")
        return UnknownKey(message, f"extract them with: mer-fs extract --plugin {plugin}")
