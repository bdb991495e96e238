"""A fragment: many clips packed in one group, written whole and never changed.

Arrays of the group (n clips, N rows):

| array         | type, shape            | meaning                                                       |
|---------------|------------------------|---------------------------------------------------------------|
| `data`        | `[N, *row_shape]`      | the rows of all clips, one clip after another                 |
| `offsets`     | int64 `[n + 1]`        | clip i has the rows `offsets[i]:offsets[i + 1]`               |
| `keys`        | uint8 `[bytes]`        | the keys' UTF-8 bytes, one after another                      |
| `key_offsets` | int64 `[n + 1]`        | key i has the bytes `key_offsets[i]:key_offsets[i + 1]`       |
| `key_hashes`  | uint64 `[n]`           | BLAKE2b-64 of each key, ascending                             |
| `key_order`   | int64 `[n]`            | clip that each of `key_hashes` belongs to                     |
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import strings
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import RESTORE, Damaged
from mer_featurestore.groups import Blocks, Group, Layout, open_group
from mer_featurestore.index import encode_keys, hash_keys
from mer_featurestore.journal import Entry

if TYPE_CHECKING:
    from mer_featurestore.records import SpaceSpec
    from mer_featurestore.storage import Storage

VERSION = 1
SMALL = 1 << 16  # bytes below which reading is cheaper than mapping


class Fragment:
    """A committed fragment, opened on use; may be used after a fork and sent to another process."""

    def __init__(self, storage: "Storage", entry: Entry) -> None:
        self.storage, self.entry = storage, entry

    def __len__(self) -> int:
        return int(self.entry.attrs["clips"])

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self.storage, "entry": self.entry}

    @property
    def rows(self) -> int:
        """Rows of all its clips."""
        return int(self.entry.attrs["rows"])

    @cached_property
    def group(self) -> Group:
        """The opened group."""
        return open_group(self.storage, self.entry)

    @cached_property
    def layout(self) -> Layout | None:
        """Where the rows lie, None when they must be read through the backend."""
        spec, group = self.entry.attrs["spec"], self.group
        found = group.shape("data"), group.dtype("data")
        expected = (self.rows, *spec["row_shape"]), np.dtype(spec["dtype"])
        self._require(found == expected, "data", f"is {found[1]}{list(found[0])}, not {list(expected[0])}")
        return group.extents("data")

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of the keys, ascending, uint64 `[n]`."""
        return self._column("key_hashes", len(self))

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Clip of each hash, int64 `[n]`."""
        column = self._column("key_order", len(self))
        fine = column.min(initial=0) >= 0 and column.max(initial=0) < max(1, len(self))
        self._require(fine, "key_order", "names clips that are not there")
        return column

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each clip, int64 `[n + 1]`."""
        return self._ascending("offsets", self.rows)

    @cached_property
    def key_offsets(self) -> NDArray[np.int64]:
        """First byte of each key, int64 `[n + 1]`."""
        return self._ascending("key_offsets", len(self.key_blob))

    @cached_property
    def key_blob(self) -> NDArray[np.uint8]:
        """Bytes of all keys."""
        return self._column("keys", self.group.shape("keys")[0])

    def have_keys(self, clips: NDArray[np.int64], keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Say for each clip whether its key is this one, UTF-8 encoded; bool `[n]`."""
        starts, ends = self.key_offsets[clips].tolist(), self.key_offsets[clips + 1].tolist()
        blob = self.key_blob.data
        return np.array([blob[a:b] == k for a, b, k in zip(starts, ends, keys, strict=True)], bool)

    def key_list(self) -> list[str]:
        """Return all keys in their order."""
        return strings.decode(self.key_blob, self.key_offsets)

    def _ascending(self, name: str, last: int) -> NDArray[np.int64]:
        """Return a column of n + 1 positions. They are checked, as a wrong one would read anything."""
        column = self._column(name, len(self) + 1)
        fine = column[0] == 0 and column[-1] == last and bool((column[1:] >= column[:-1]).all())
        self._require(fine, name, "does not ascend from 0 to its end")
        return column

    def _column(self, name: str, rows: int) -> NDArray[Any]:
        """Map a column, or read it where it is small, compressed or not local."""
        shape, dtype = self.group.shape(name), self.group.dtype(name)
        self._require(shape == (rows,), name, f"has shape {shape}, not {(rows,)}")
        layout = self.group.extents(name) if self.storage.local and rows * dtype.itemsize >= SMALL else None
        if layout is None or len(layout.offset) != 1 or self.storage.local is None:
            return self.group.read(name)
        path = self.storage.local / layout.files[0]
        mapped = np.memmap(path, dtype, "r", int(layout.offset[0]), shape)
        return mapped.view(np.ndarray)

    def check(self) -> None:
        """Check shapes, types, offsets and the key index against each other.

        Raises:
            Damaged: They contradict each other; the message names the array.
        """
        _ = self.layout, self.offsets  # raise for what is missing, short or of another shape
        coded = encode_keys(self.key_list())
        self._require(len(set(coded)) == len(coded), "keys", "has a key twice")
        self._require(
            np.array_equal(np.sort(self.order), np.arange(len(self))), "key_order", "is no permutation"
        )
        fine = np.array_equal(hash_keys(coded)[self.order], self.hashes) and bool(
            (self.hashes[1:] >= self.hashes[:-1]).all()
        )
        self._require(fine, "key_hashes", "does not belong to the keys")

    def _require(self, fine: bool | np.bool_, name: str, problem: str) -> None:
        if not fine:
            raise Damaged(f"{name} of {self.entry.path} {problem}", RESTORE)


def draft_fragment(
    draft: Draft,
    spec: "SpaceSpec",
    keys: Sequence[str],
    lengths: NDArray[np.int64],
    data: "NDArray[Any] | Blocks",
    *,
    codec: str | None,
    content: Hashable,
) -> Entry:
    """Write a fragment and return the entry that a commit can add.

    Args:
        draft: Of the commit.
        spec: The space it belongs to.
        keys: n keys.
        lengths: Rows of each clip, int64 `[n]`.
        data: `[Σ lengths, *row_shape]` in the space's type.
        codec: Compression of `data`, or None.
        content: What tells this content from others of the same draft.

    Raises:
        UnknownName: The backend does not offer the codec.
        StoreError: No permission, or no space left.
    """
    facts = {"clips": len(keys), "rows": int(data.shape[0]), "codec": codec}
    attrs = {
        "format": f"mer-fs fragment {VERSION}",
        "fingerprint": spec.fingerprint,
        "spec": spec_json(spec),
        **facts,
    }
    return draft.entry(
        "features",
        spec.name,
        content,
        lambda: ({"data": data, **columns(keys, lengths)}, attrs),
        attrs=attrs,
        parents=spec.parents,
        folder=f"features/{spec.name}",
        codecs={"data": codec} if codec else None,
    )


def columns(keys: Sequence[str], lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a fragment besides `data`."""
    blob, key_offsets = strings.encode(keys)
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    hashes = hash_keys(encode_keys(keys))
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    return {
        "offsets": offsets,
        "keys": blob,
        "key_offsets": key_offsets,
        "key_hashes": hashes[order],
        "key_order": order,
    }


def spec_json(spec: "SpaceSpec") -> dict[str, Any]:
    """Return the specification as JSON, the way `spec_from_json` reads it."""
    return {"name": spec.name, **spec.identity(), "parents": list(spec.parents)}


def spec_from_json(document: Mapping[str, Any]) -> "SpaceSpec":
    """Rebuild a specification."""
    from mer_featurestore.records import SpaceSpec

    row_shape, parents = tuple(document["row_shape"]), tuple(document["parents"])
    return SpaceSpec(**{**document, "row_shape": row_shape, "parents": parents})
