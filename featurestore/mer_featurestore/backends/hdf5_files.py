"""Files as h5py uses them: one that survives a full disk while it is written, one that is read from afar."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.groups import write_all

if TYPE_CHECKING:
    from mer_featurestore.storage import Storage


class Sink(io.RawIOBase):
    """A new file for h5py to write, whose errors are raised when it is left.

    HDF5 does not survive an error while it flushes (on a full disk it raises from destructors, or crashes the
    process), so it is told that all is well, and what it made is thrown away.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._file = path, path.open("x+b", buffering=0)
        self._error: OSError | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the byte that is written next."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read back what was written; zeros where an error has kept it from being written."""
        target = memoryview(buffer).cast("B")
        done = self._file.readinto(target) or 0
        if self._error is not None:
            target[done:] = bytes(len(target) - done)
            return len(target)
        return done

    def write(self, data: Any) -> int:
        """Write all of it."""
        raw = memoryview(data).cast("B")
        with self._noted():
            write_all(self._file, raw)
        return len(raw)

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        size = self.tell() if size is None else size
        with self._noted():
            self._file.truncate(size)
        return size

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        self.close()
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self._path)) from error

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error


class DistantFile(io.RawIOBase):
    """A file of a storage for h5py, read in aligned blocks that are kept."""

    BLOCK = 1 << 20

    def __init__(self, storage: "Storage", name: str, size: int) -> None:
        super().__init__()
        self._storage, self._name, self._size = storage, name, size
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes."""
        target = memoryview(buffer).cast("B")
        want = max(0, min(len(target), self._size - self._position))
        done = 0
        while done < want:
            number, skip = divmod(self._position + done, self.BLOCK)
            part = self._block(number)[skip : skip + want - done]
            if not part:
                break
            target[done : done + len(part)] = part
            done += len(part)
        self._position += done
        return done

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= 64:
                self._blocks.clear()
            self._blocks[number] = self._storage.read(self._name, number * self.BLOCK, self.BLOCK)
        return self._blocks[number]
