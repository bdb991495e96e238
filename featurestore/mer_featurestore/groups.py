"""What everything in a store is made of: a group of named numeric arrays with JSON attributes; its backends.

A backend writes a group whole, once, and opens it again; nothing here is ever modified in place. Strings are
two arrays (`strings.py`). Backends are found by name with `find_backend`.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mer_featurestore.checksums import checksums
from mer_featurestore.errors import RESTORE, Damaged, UnknownName
from mer_featurestore.names import fresh
from mer_featurestore.storage import explained

if TYPE_CHECKING:
    from mer_featurestore.journal import Entry
    from mer_featurestore.storage import Storage

BACKENDS = ("zarr", "hdf5")
ROW_BLOCK = 1 << 22
WRITE_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Blocks:
    """An array that is given in pieces along its first axis, so that it never has to be in memory whole.

    Attributes:
        shape: Shape of the whole.
        dtype: Type of every piece.
        pieces: Arrays `[k, *shape[1:]]` that make up the whole in order; read once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]


Arrays = Mapping[str, "NDArray[Any] | Blocks"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of an uncompressed array lie: runs of rows that are contiguous in a file.

    Attributes:
        files: Names in the store.
        row_bytes: Bytes of one row.
        starts: `[m + 1]`; run i holds the rows `starts[i]:starts[i + 1]`.
        file: `[m]`; index into `files` of each run.
        offset: `[m]`; byte at which the first row of each run begins.
    """

    files: tuple[str, ...]
    row_bytes: int
    starts: list[int]
    file: list[int]
    offset: list[int]

    @classmethod
    def single(cls, name: str, offset: int, rows: int, row_bytes: int) -> "Layout":
        """Return the layout of one run."""
        return cls((name,), row_bytes, [0, rows], [0], [offset]) if rows else cls((), row_bytes, [0], [], [])


class Group(ABC):
    """A group that was opened for reading.

    Opening is cheap; arrays are touched on use. A group may be used after a fork and sent to another process.
    """

    @property
    @abstractmethod
    def attrs(self) -> dict[str, Any]:
        """The JSON attributes."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The arrays, sorted by name."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape."""

    @abstractmethod
    def dtype(self, name: str) -> np.dtype[Any]:
        """Return an array's type."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the rows `start:stop` of an array, `[stop - start, *shape[1:]]`, in memory of its own.

        Raises:
            Damaged: A file is missing, shorter than it was, or does not decode; the message names it.
        """

    @abstractmethod
    def extents(self, name: str) -> Layout | None:
        """Return where an array's bytes lie, checked against the files; None when it is compressed.

        Raises:
            Damaged: A file is missing or shorter than it was.
        """

    def rows_per_block(self, name: str) -> int:
        """Return how many rows are decoded together: reads that share a block are best made as one."""
        shape = self.shape(name)
        return max(1, ROW_BLOCK // max(1, row_bytes(shape, self.dtype(name))))


class Backend(ABC):
    """One file format for groups."""

    name: str
    suffix: str
    """What a group's path ends with, e.g. `.zarr`."""
    codecs: Mapping[str, str]
    """Codecs it offers, with a line about each."""

    @abstractmethod
    def write(
        self, path: Path, arrays: Arrays, attrs: Mapping[str, Any], *, codecs: Mapping[str, str] | None = None
    ) -> None:
        """Write a group whole.

        Args:
            path: A local path at which nothing exists yet.
            arrays: Numeric arrays of one or more axes; the first may have length 0.
            attrs: JSON attributes.
            codecs: Codec per array, e.g. `{"data": "zstd"}`; arrays not named are not compressed.

        Raises:
            UnknownName: The backend does not offer a codec.
        """

    @abstractmethod
    def open(self, storage: "Storage", path: str) -> Group:
        """Open a group.

        Args:
            storage: Where it lies.
            path: Its path there.

        Raises:
            Damaged: There is no whole group at that path.
        """

    def check_codec(self, codec: str | None) -> str | None:
        """Return the codec, or None for `none`.

        Raises:
            UnknownName: The backend does not offer it; the message says what each backend offers.
        """
        if codec in (None, "none"):
            return None
        if codec not in self.codecs:
            offers = "; ".join(f"{b} offers none, {', '.join(find_backend(b).codecs)}" for b in BACKENDS)
            raise UnknownName(f"codec of the {self.name} backend", str(codec), self.codecs, offers)
        return codec


def find_backend(name: str) -> Backend:
    """Return a backend by name.

    Raises:
        UnknownName: There is none of that name.
    """
    if name == "zarr":
        from mer_featurestore.backends.zarr import ZarrBackend

        return ZarrBackend()
    if name == "hdf5":
        from mer_featurestore.backends.hdf5 import Hdf5Backend

        return Hdf5Backend()
    raise UnknownName("backend", name, BACKENDS)


def fresh_path(prefix: str, backend: Backend) -> str:
    """Return a path below `prefix` that nothing has had before and nothing will have again."""
    return fresh(prefix) + backend.suffix


def publish(
    storage: "Storage",
    backend: Backend,
    path: str,
    arrays: Arrays,
    attrs: Mapping[str, Any],
    *,
    codecs: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write a group to a store, durably; a commit that names it is what makes it exist.

    Args:
        storage: The store's bytes.
        backend: The format.
        path: Where, as `fresh_path` gives it.
        arrays: See `Backend.write`.
        attrs: See `Backend.write`.
        codecs: See `Backend.write`.

    Returns:
        For `Entry.files`: size and CRC-32C of every file by its path below `path` (`""` for a single file).
    """
    with storage.staging() as folder, explained(storage.url):
        local = folder / PurePosixPath(path).name
        backend.write(local, arrays, attrs, codecs=codecs)
        with ThreadPoolExecutor(1) as pool:  # the disk is busy while the checksums are computed
            flushed = pool.submit(storage.flush, local)
            files = checksums(local)
            flushed.result()
        storage.upload(local, path)
    return files


def open_group(storage: "Storage", entry: "Entry") -> Group:
    """Open the group that a journal entry names.

    Raises:
        Damaged: There is no whole group at that path.
    """
    return find_backend(entry.backend).open(storage, entry.path)


def row_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return the bytes of one row of an array."""
    return int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize


def pieces_of(array: "NDArray[Any] | Blocks", rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield `(first row, piece)` with exactly `rows` rows a piece, fewer only in the last.

    Whole arrays give views; `Blocks` are gathered in one buffer that the next piece overwrites.
    """
    if not isinstance(array, Blocks):
        for start in range(0, array.shape[0], rows):
            yield start, array[start : start + rows]
        return
    total = array.shape[0]
    buffer = np.empty((min(rows, max(1, total)), *array.shape[1:]), array.dtype)
    first = filled = 0
    for piece in array.pieces:
        while len(piece):
            take = min(len(piece), len(buffer) - filled)
            buffer[filled : filled + take] = piece[:take]
            piece, filled = piece[take:], filled + take
            if filled == len(buffer):
                yield first, buffer
                first, filled = first + filled, 0
    if filled:
        yield first, buffer[:filled]
    if first + filled != total:
        raise ValueError(f"the pieces have {first + filled} rows, the whole has {total}")


def write_all(file: io.RawIOBase, data: memoryview) -> None:
    """Write bytes to an unbuffered file, in steps of 1 MB.

    Larger steps make the kernel look for larger pages, which takes several times as long when memory is
    fragmented.
    """
    done = 0
    while done < len(data):
        done += file.write(data[done : done + WRITE_STEP]) or 0


def need_files(missing: Collection[str]) -> None:
    """Raise `Damaged` when files of a group are missing."""
    if missing:
        raise Damaged(f"{min(missing)} is missing", RESTORE)
