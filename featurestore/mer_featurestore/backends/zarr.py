"""Groups as Zarr v3 folders: sharded, uncompressed by default, readable by plain zarr-python.

Inner chunks are about 512 KB of rows and shards 256 MB, 64 MB where compressed, so that a fragment is a
handful of files.
Uncompressed arrays are written directly (`zarr_plain`), compressed ones by zarr-python.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.backends import zarr_plain
from mer_featurestore.backends.zarr_plain import METADATA
from mer_featurestore.errors import RESTORE, Damaged
from mer_featurestore.groups import Arrays, Backend, Blocks, Group, Layout, need_files, pieces_of

if TYPE_CHECKING:
    import zarr

    from mer_featurestore.storage import Storage


class ZarrBackend(Backend):
    """Zarr v3."""

    name = "zarr"
    suffix = ".zarr"
    codecs: Mapping[str, str] = {
        "zstd": "Zstandard level 3",
        "blosc": "Blosc: byte shuffle and Zstandard level 5",
        "gzip": "gzip level 5, for programs that know nothing else",
    }

    def write(
        self, path: Path, arrays: Arrays, attrs: Mapping[str, Any], *, codecs: Mapping[str, str] | None = None
    ) -> None:
        """Write the group; see `Backend.write`."""
        chosen = {name: self.check_codec(codec) for name, codec in (codecs or {}).items()}
        zarr_plain.write_json(path, {"attributes": dict(attrs), "zarr_format": 3, "node_type": "group"})
        for name, array in arrays.items():
            codec = chosen.get(name)
            if codec is None:
                zarr_plain.write_array(path / name, array)
            else:
                _write_compressed(path / name, array, codec)

    def open(self, storage: "Storage", path: str) -> "ZarrGroup":
        """Open the group; see `Backend.open`."""
        return ZarrGroup(storage, path)


class ZarrGroup(Group):
    """A Zarr v3 group in a store. Plain arrays are read without importing zarr-python."""

    def __init__(self, storage: "Storage", path: str) -> None:
        self.storage, self.path = storage, path
        self._metadata: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
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
        """Return rows of an array; see `Group.read`."""
        shape = self.shape(name)
        start, stop, _ = slice(start, stop).indices(shape[0])
        rows = np.empty((max(0, stop - start), *shape[1:]), self.dtype(name))
        if not rows.size:
            return rows
        layout = self.extents(name)
        if layout is None:
            return self._decode(name, start, stop)
        self._read_plain(layout, start, stop, rows.reshape(-1).view(np.uint8))
        return rows

    def extents(self, name: str) -> Layout | None:
        """Return where the rows lie, from the shards' indices; see `Group.extents`."""
        metadata, sizes = self._document(name), self._files(name)
        return zarr_plain.locate(metadata, lambda i: self._chunk_file(name, i), sizes, self.storage.read)

    def rows_per_block(self, name: str) -> int:
        """Return the rows of an inner chunk."""
        return zarr_plain.inner_rows(self._document(name))

    def _read_plain(self, layout: Layout, start: int, stop: int, buffer: NDArray[np.uint8]) -> None:
        from mer_featurestore.positional import Reader, plan

        pieces = plan(layout, [start], [stop - start], [0])
        Reader(self.storage).read(pieces, buffer.data)

    def _decode(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read through zarr-python, which would take a missing file for zeros: here it is damage."""
        per_file = self._document(name)["chunk_grid"]["configuration"]["chunk_shape"][0]
        wanted = {self._chunk_file(name, i) for i in range(start // per_file, (stop - 1) // per_file + 1)}
        need_files(wanted - set(self._files(name)))
        try:
            return np.asarray(self._array(name)[start:stop])
        except Exception as error:  # codecs raise whatever they like for bytes that do not decode
            raise Damaged(f"{self.path}/{name} does not decode: {error}", RESTORE) from error

    def _array(self, name: str) -> "zarr.Array[Any]":
        import zarr

        if self.storage.local is not None:
            return zarr.open_array(str(self.storage.local / self.path / name), mode="r")
        from mer_featurestore.backends.zarr_remote import StorageStore

        return zarr.open_array(StorageStore(self.storage, f"{self.path}/{name}"), mode="r")

    def _document(self, name: str) -> dict[str, Any]:
        if name not in self._metadata:
            file = f"{self.path}/{name}/{METADATA}" if name else f"{self.path}/{METADATA}"
            try:
                document = json.loads(self.storage.read(file))
                if name:
                    zarr_plain.check(document)
                else:
                    _ = document["attributes"]
            except FileNotFoundError as error:
                raise Damaged(f"{file} is missing", RESTORE) from error
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise Damaged(f"{file} is damaged", RESTORE) from error
            self._metadata[name] = document
        return self._metadata[name]

    def _files(self, name: str) -> dict[str, int]:
        if name not in self._sizes:
            self._sizes[name] = self.storage.list(f"{self.path}/{name}/c")
        return self._sizes[name]

    def _chunk_file(self, name: str, number: int) -> str:
        return f"{self.path}/{name}/c/{number}" + "/0" * (len(self.shape(name)) - 1)


def _write_compressed(folder: Path, array: "NDArray[Any] | Blocks", codec: str) -> None:
    import zarr

    chunk, _, shard = zarr_plain.chunking(array.shape, np.dtype(array.dtype), 1)
    rest = tuple(max(1, n) for n in array.shape[1:])
    with zarr.config.set({"array.write_empty_chunks": True}):
        target = zarr.create_array(
            str(folder),
            zarr_format=3,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(chunk, *rest),
            shards=(shard, *rest) if shard > chunk else None,
            compressors=_compressor(codec),
            filters=None,
            fill_value=0,
        )
        for start, piece in pieces_of(array, shard):
            target[start : start + len(piece)] = piece


def _compressor(codec: str) -> Any:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if codec == "zstd":
        return ZstdCodec(level=3)
    if codec == "blosc":
        return BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
    return GzipCodec(level=5)
