"""Groups as Zarr v3 folders: sharded, uncompressed by default, readable by plain zarr-python.

Inner chunks are about 512 KB of rows and shards about 64 MB, so that a fragment is a handful of files. The
index at the end of each uncompressed shard tells where every chunk lies, which makes positional reads
possible.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import Damaged
from mer_featurestore.groups import Arrays, Backend, Blocks, Group, Layout, need_files, pieces_of, row_bytes

if TYPE_CHECKING:
    import zarr

    from mer_featurestore.storage import Storage

CHUNK_BYTES = 1 << 19
SHARD_BYTES = 1 << 26
METADATA = "zarr.json"
NOWHERE = np.uint64(0xFFFFFFFFFFFFFFFF)  # offset of a chunk that a shard does not hold
PLAIN = [{"name": "bytes", "configuration": {"endian": "little"}}]
PLAIN_BYTES = [{"name": "bytes"}]  # one-byte types have no endianness


class ZarrBackend(Backend):
    """Zarr v3."""

    name = "zarr"
    suffix = ".zarr"
    codecs: Mapping[str, str] = {
        "zstd": "Zstandard level 3",
        "blosc": "Blosc: bit shuffle and Zstandard level 5, best for float16",
        "gzip": "gzip level 5, for programs that know nothing else",
    }

    def write(
        self, path: Path, arrays: Arrays, attrs: Mapping[str, Any], *, codecs: Mapping[str, str] | None = None
    ) -> None:
        """Write the group; see `Backend.write`."""
        import zarr

        chosen = {name: self.check_codec(codec) for name, codec in (codecs or {}).items()}
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.create_group(str(path), zarr_format=3, attributes=dict(attrs))
            for name, array in arrays.items():
                _write_array(group, name, array, chosen.get(name))

    def open(self, storage: "Storage", path: str) -> "ZarrGroup":
        """Open the group; see `Backend.open`."""
        return ZarrGroup(storage, path)


class ZarrGroup(Group):
    """A Zarr v3 group in a store."""

    def __init__(self, storage: "Storage", path: str) -> None:
        self.storage, self.path = storage, path
        self._metadata: dict[str, dict[str, Any]] = {}
        self._attrs: dict[str, Any] = self._document("")["attributes"]

    @property
    def attrs(self) -> dict[str, Any]:
        """The JSON attributes."""
        return self._attrs

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The arrays, sorted by name."""
        below = [name.removeprefix(f"{self.path}/") for name in self.storage.list(self.path)]
        parts = [name.split("/") for name in below if name.endswith(METADATA)]
        return tuple(sorted(part[0] for part in parts if len(part) == 2))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return tuple(self._document(name)["shape"])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return an array's type."""
        return np.dtype(str(self._document(name)["data_type"]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows of an array through zarr-python; see `Group.read`."""
        array = self._array(name)
        start, stop, _ = slice(start, stop).indices(array.shape[0])
        self._check_chunks(name, start, stop)
        try:
            return np.asarray(array[start:stop])
        except Exception as error:  # codecs raise whatever they like for bytes that do not decode
            raise Damaged(
                f"{self.path}/{name} does not decode: {error}", "`mer-fs verify` names the damaged file"
            ) from error

    def extents(self, name: str) -> Layout | None:
        """Return where the rows lie, from the shards' indices; see `Group.extents`."""
        return _layout(self, name, self._document(name))

    def rows_per_block(self, name: str) -> int:
        """Return the rows of an inner chunk."""
        return _inner_rows(self._document(name))

    def _document(self, name: str) -> dict[str, Any]:
        if name not in self._metadata:
            file = f"{self.path}/{name}/{METADATA}" if name else f"{self.path}/{METADATA}"
            try:
                document = json.loads(self.storage.read(file))
            except FileNotFoundError as error:
                raise Damaged(f"{file} is missing", "`mer-fs verify` lists what is broken") from error
            except ValueError as error:
                raise Damaged(f"{file} is damaged", "`mer-fs verify` lists what is broken") from error
            self._metadata[name] = document
        return self._metadata[name]

    def _array(self, name: str) -> "zarr.Array[Any]":
        import zarr

        self._document(name)  # says which file is missing
        if self.storage.local is not None:
            return zarr.open_array(str(self.storage.local / self.path / name), mode="r")
        from mer_featurestore.backends.zarr_remote import StorageStore

        return zarr.open_array(StorageStore(self.storage, f"{self.path}/{name}"), mode="r")

    def _check_chunks(self, name: str, start: int, stop: int) -> None:
        """Zarr reads a missing file as zeros; here it is damage."""
        rows = self._document(name)["chunk_grid"]["configuration"]["chunk_shape"][0]
        if start < stop:
            wanted = {self.chunk_file(name, i) for i in range(start // rows, (stop - 1) // rows + 1)}
            need_files(wanted - set(self.sizes(name)), self.storage.url)

    def chunk_file(self, name: str, index: int) -> str:
        """Return the file of the chunk (or shard) that is number `index` along the first axis."""
        rest = "/0" * (len(self.shape(name)) - 1)
        return f"{self.path}/{name}/c/{index}{rest}"

    def sizes(self, name: str) -> dict[str, int]:
        """Return the files of an array with their sizes."""
        return self.storage.list(f"{self.path}/{name}/c")


def _write_array(group: "zarr.Group", name: str, array: "NDArray[Any] | Blocks", codec: str | None) -> None:
    chunk, shard = _chunking(array.shape, array.dtype)
    target = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(chunk, *array.shape[1:]),
        shards=(shard, *array.shape[1:]) if shard > chunk else None,
        compressors=_compressor(codec),
        filters=None,
        fill_value=0,
    )
    for start, piece in pieces_of(array, shard):
        target[start : start + len(piece)] = piece


def _chunking(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the rows of a chunk and of a shard (equal where one chunk holds all)."""
    one = max(1, row_bytes(shape, dtype))
    chunk = max(1, CHUNK_BYTES // one)
    if shape[0] <= chunk:
        return max(1, shape[0]), max(1, shape[0])
    return chunk, chunk * max(1, min(SHARD_BYTES // (one * chunk), -(-shape[0] // chunk)))


def _compressor(codec: str | None) -> Any:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if codec is None:
        return None
    if codec == "zstd":
        return ZstdCodec(level=3)
    if codec == "blosc":
        return BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    return GzipCodec(level=5)


def _inner_rows(document: Mapping[str, Any]) -> int:
    codecs = document["codecs"]
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        return int(codecs[0]["configuration"]["chunk_shape"][0])
    return int(document["chunk_grid"]["configuration"]["chunk_shape"][0])


def _layout(group: ZarrGroup, name: str, document: Mapping[str, Any]) -> Layout | None:
    """Return the layout of an uncompressed array whose chunks span whole rows, else None."""
    shape, chunks = tuple(document["shape"]), document["chunk_grid"]["configuration"]["chunk_shape"]
    encoding = document["chunk_key_encoding"]
    if encoding["name"] != "default" or encoding.get("configuration", {}).get("separator", "/") != "/":
        return None
    if tuple(chunks[1:]) != shape[1:] or document["chunk_grid"]["name"] != "regular":
        return None
    one = row_bytes(shape, group.dtype(name))
    if _is_plain(document["codecs"]):
        return _unsharded(group, name, shape[0], chunks[0], one)
    inner = _plain_sharding(document["codecs"], shape)
    return _sharded(group, name, shape[0], chunks[0], inner, one) if inner else None


def _is_plain(codecs: Any) -> bool:
    return codecs in (PLAIN, PLAIN_BYTES)


def _plain_sharding(codecs: Any, shape: tuple[int, ...]) -> int | None:
    """Return the rows of an inner chunk when these codecs are sharding and nothing else."""
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return None
    settings = codecs[0]["configuration"]
    index = settings["index_codecs"]
    whole_rows = tuple(settings["chunk_shape"][1:]) == shape[1:]
    if not (whole_rows and _is_plain(settings["codecs"]) and settings["index_location"] == "end"):
        return None
    if len(index) != 2 or index[:1] != PLAIN or index[1]["name"] != "crc32c":
        return None
    return int(settings["chunk_shape"][0])


def _unsharded(group: ZarrGroup, name: str, rows: int, per_file: int, one: int) -> Layout:
    files = [group.chunk_file(name, i) for i in range(-(-rows // per_file))]
    sizes = group.sizes(name) if files else {}
    need_files(set(files) - set(sizes), group.storage.url)
    for file in files:
        _need_size(file, sizes[file], per_file * one)
    starts = [min(i * per_file, rows) for i in range(len(files) + 1)]
    return Layout(tuple(files), one, starts, list(range(len(files))), [0] * len(files))


def _sharded(group: ZarrGroup, name: str, rows: int, per_shard: int, per_chunk: int, one: int) -> Layout:
    files = [group.chunk_file(name, i) for i in range(-(-rows // per_shard))]
    sizes = group.sizes(name) if files else {}
    need_files(set(files) - set(sizes), group.storage.url)
    offsets, owners = [], []
    for i, file in enumerate(files):
        chunks = -(-min(per_shard, rows - i * per_shard) // per_chunk)
        index = _shard_index(group.storage, file, sizes[file], per_shard // per_chunk)[:chunks]
        whole = (index[:, 1] == per_chunk * one) & (index[:, 0] != NOWHERE)
        if not whole.all() or (index[:, 0] + index[:, 1]).max() > sizes[file]:
            raise Damaged(f"{file} does not hold all its chunks", "`mer-fs verify` lists what is broken")
        offsets.append(index[:, 0].astype(np.int64))
        owners.append(np.full(chunks, i, np.int64))
    if not files:
        return Layout.single("", 0, 0, one)
    return _joined(tuple(files), one, rows, per_chunk, np.concatenate(owners), np.concatenate(offsets))


def _joined(
    files: tuple[str, ...],
    one: int,
    rows: int,
    per_chunk: int,
    owners: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> Layout:
    """Join chunks that follow each other in a file into runs."""
    follows = (owners[1:] == owners[:-1]) & (offsets[1:] == offsets[:-1] + per_chunk * one)
    first = np.flatnonzero(np.concatenate([[True], ~follows]))
    starts = [*(first * per_chunk).tolist(), rows]
    return Layout(files, one, starts, owners[first].tolist(), offsets[first].tolist())


def _shard_index(storage: "Storage", file: str, size: int, chunks: int) -> NDArray[np.uint64]:
    """Return `[chunks, 2]` (offset, bytes) from the end of a shard, its checksum verified."""
    import google_crc32c

    length = 16 * chunks + 4
    data = storage.read(file, max(0, size - length), length)
    if len(data) < length or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Damaged(f"{file} is truncated or its index is damaged", "`mer-fs verify` lists what is broken")
    return np.frombuffer(data[:-4], "<u8").reshape(chunks, 2)


def _need_size(file: str, size: int, expected: int) -> None:
    if size != expected:
        raise Damaged(
            f"{file} has {size} bytes instead of {expected}", "`mer-fs verify` lists what is broken"
        )
