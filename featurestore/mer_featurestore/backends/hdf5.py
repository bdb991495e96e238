"""Groups as HDF5 files: contiguous datasets in a new file per group, readable by plain h5py.

A file is written whole, closed and never opened for writing again: HDF5 files that are killed while they grow
may not open any more.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.backends.hdf5_files import DistantFile, Sink
from mer_featurestore.errors import RESTORE, Damaged
from mer_featurestore.groups import Arrays, Backend, Blocks, Group, Layout, pieces_of, row_bytes

if TYPE_CHECKING:
    import h5py

    from mer_featurestore.storage import Storage

CHUNK_BYTES = 1 << 19
WRITE_BYTES = 1 << 24
PAGE = 4096


class Hdf5Backend(Backend):
    """HDF5."""

    name = "hdf5"
    suffix = ".h5"
    codecs: Mapping[str, str] = {
        "gzip": "byte shuffle and gzip level 4, read by every HDF5 program",
        "lzf": "byte shuffle and LZF, fast, read by h5py",
    }

    def write(
        self, path: Path, arrays: Arrays, attrs: Mapping[str, Any], *, codecs: Mapping[str, str] | None = None
    ) -> None:
        """Write the group; see `Backend.write`."""
        import h5py

        chosen = {name: self.check_codec(codec) for name, codec in (codecs or {}).items()}
        # v108 and later keep attributes of more than 64 KB; large arrays begin on a page.
        settings = {"libver": ("v108", "v110"), "alignment_threshold": PAGE, "alignment_interval": PAGE}
        with Sink(path) as sink, h5py.File(sink, "w", **settings) as file:
            for name, value in attrs.items():
                file.attrs[name] = json.dumps(value, ensure_ascii=False, allow_nan=False)
            for name, array in arrays.items():
                _write_array(file, name, array, chosen.get(name))

    def open(self, storage: "Storage", path: str) -> "Hdf5Group":
        """Open the group; see `Backend.open`."""
        return Hdf5Group(storage, path)


class Hdf5Group(Group):
    """An HDF5 file in a store; it is open only during a call, so there is nothing to inherit over a fork."""

    def __init__(self, storage: "Storage", path: str) -> None:
        self.storage, self.path = storage, path
        self._facts  # noqa: B018 - says at once when the file is missing or no HDF5 file

    @property
    def attrs(self) -> dict[str, Any]:
        """The JSON attributes."""
        return self._facts[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays, sorted by name."""
        return tuple(sorted(self._facts[1]))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return self._array(name)[0]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return an array's type."""
        return self._array(name)[1]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows of an array through h5py; see `Group.read`."""
        shape, dtype, _, _ = self._array(name)
        start, stop, _ = slice(start, stop).indices(shape[0])
        rows = np.empty((max(0, stop - start), *shape[1:]), dtype)
        if rows.size:
            with self._opened() as file:
                file[name].read_direct(rows, np.s_[start:stop])
        return rows

    def extents(self, name: str) -> Layout | None:
        """Return where the rows lie, from the dataset's offset; see `Group.extents`."""
        shape, dtype, offset, _ = self._array(name)
        one = row_bytes(shape, dtype)
        if offset is None:
            return None if shape[0] else Layout.single("", 0, 0, one)
        if offset + shape[0] * one > self._size:
            raise Damaged(f"{self.path} ends within {name}", RESTORE)
        return Layout.single(self.path, offset, shape[0], one)

    def rows_per_block(self, name: str) -> int:
        """Return the rows of a chunk, or of a block where the array is contiguous."""
        return self._array(name)[3] or super().rows_per_block(name)

    @cached_property
    def _facts(
        self,
    ) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], np.dtype[Any], int | None, int]]]:
        """Attributes; shape, type, offset (None unless contiguous and plain) and chunk rows of each array."""
        with self._opened() as file:
            attrs = {name: json.loads(value) for name, value in file.attrs.items()}
            arrays = {}
            for name, dataset in file.items():
                chunks = dataset.chunks[0] if dataset.chunks else 0
                plain = not chunks and dataset.dtype.isnative and not dataset.external
                arrays[name] = (
                    dataset.shape,
                    dataset.dtype,
                    dataset.id.get_offset() if plain else None,
                    chunks,
                )
        return attrs, arrays

    def _array(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int | None, int]:
        arrays = self._facts[1]
        if name not in arrays:
            raise Damaged(f"{self.path} has no array {name}", RESTORE)
        return arrays[name]

    @cached_property
    def _size(self) -> int:
        if self.storage.local is not None:
            return (self.storage.local / self.path).stat().st_size
        return self.storage.list(self.path.rsplit("/", 1)[0])[self.path]

    @contextmanager
    def _opened(self) -> Iterator["h5py.File"]:
        import h5py

        try:
            local = self.storage.local
            # Locking fails on some network mounts and guards nothing here: nobody writes.
            source = str(local / self.path) if local else DistantFile(self.storage, self.path, self._size)
            with h5py.File(source, "r", locking=False if local else None) as file:
                yield file
        except FileNotFoundError as error:
            raise Damaged(f"{self.path} is missing", RESTORE) from error
        except (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            # All of them are h5py's ways to say so.
            raise Damaged(f"{self.path} is truncated or damaged: {error}", RESTORE) from error


def _write_array(file: "h5py.File", name: str, array: "NDArray[Any] | Blocks", codec: str | None) -> None:
    one = max(1, row_bytes(array.shape, array.dtype))
    settings: dict[str, Any] = {}
    if codec and array.shape[0]:
        chunk = max(1, min(array.shape[0], CHUNK_BYTES // one))
        settings = {"chunks": (chunk, *array.shape[1:]), "compression": codec, "shuffle": True}
        settings |= {"compression_opts": 4} if codec == "gzip" else {}
    dataset = file.create_dataset(
        name, shape=array.shape, dtype=array.dtype, track_times=False, fill_time="never", **settings
    )
    rows = max(1, WRITE_BYTES // one)
    if codec:
        rows = -(-rows // settings.get("chunks", (1,))[0]) * settings.get("chunks", (1,))[0]
    for start, piece in pieces_of(array, rows):
        dataset.write_direct(np.ascontiguousarray(piece), dest_sel=np.s_[start : start + len(piece)])
