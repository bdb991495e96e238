"""Positional reads: bytes at computed offsets of many files straight into one buffer.

This is the hot path. `preadv` needs no file position, so descriptors may be shared with forked workers; what
lies in the page cache is taken at once (`RWF_NOWAIT`), the rest is announced to the kernel (`WILLNEED`) for
the whole batch before it is waited for. Large batches are copied by several threads.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mer_featurestore.errors import Damaged
from mer_featurestore.groups import Layout

if TYPE_CHECKING:
    from mer_featurestore.storage import Storage

OPEN_FILES = 256
REMOTE_READS = 16
COPIERS, SHARE = 4, 1 << 22  # threads that copy one batch at most, and the least bytes worth one
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)


@dataclass(slots=True)
class Piece:
    """Bytes that are contiguous in a file and in the buffer.

    Attributes:
        file: Name in the store.
        offset: First byte in the file.
        target: First byte in the buffer.
        length: Bytes.
    """

    file: str
    offset: int
    target: int
    length: int


class _Open:
    """A file descriptor that is closed when nobody uses it any more."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Reader:
    """Reads pieces of the files of one storage; keeps the last files open.

    It holds no lock and no thread between calls, so a process that has read may fork. Pickling drops the
    open files.
    """

    def __init__(self, storage: "Storage") -> None:
        self.storage = storage
        self._files: dict[str, _Open] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"storage": self.storage, "_files": {}}

    def read(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        """Fill the pieces' places in a buffer.

        Args:
            pieces: What to read.
            buffer: Writable bytes.

        Raises:
            Damaged: A file is missing or shorter than its layout says.
        """
        if self.storage.local is None:
            self._read_remote(pieces, buffer)
            return
        opened = [[(self._open(piece.file), piece) for piece in share] for share in shares(pieces, _cores())]
        if len(opened) == 1:
            _copy(opened[0], buffer)
            return
        # Copying lets go of the GIL. The pool ends with the call: a thread would not survive a fork.
        with ThreadPoolExecutor(len(opened) - 1) as pool:
            others = [pool.submit(_copy, share, buffer) for share in opened[1:]]
            _copy(opened[0], buffer)
            for other in others:
                other.result()

    def _read_remote(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        def fetch(piece: Piece) -> None:
            try:
                data = self.storage.read(piece.file, piece.offset, piece.length)
            except FileNotFoundError as error:
                raise _missing(piece.file) from error
            if len(data) != piece.length:
                raise _short(piece)
            buffer[piece.target : piece.target + piece.length] = data

        if len(pieces) == 1:
            fetch(pieces[0])
        elif pieces:
            with ThreadPoolExecutor(min(REMOTE_READS, len(pieces))) as pool:
                list(pool.map(fetch, pieces))

    def _open(self, name: str) -> _Open:
        found = self._files.get(name)
        if found is None:
            try:
                found = _Open(self.storage.local / name)  # type: ignore[operator]  # checked by read()
            except FileNotFoundError as error:
                raise _missing(name) from error
            if len(self._files) >= OPEN_FILES:
                self._files = {}  # descriptors in use live on until their reader lets go
            self._files[name] = found
        return found


def plan(layout: Layout, rows: Sequence[int], counts: Sequence[int], targets: Sequence[int]) -> list[Piece]:
    """Return the pieces that hold clips; neighbours in the file and in the buffer become one.

    Args:
        layout: Where rows lie.
        rows: First row of each clip.
        counts: Rows of each clip.
        targets: Byte of the buffer at which each clip goes.
    """
    starts, one, files, owners, offsets = (
        layout.starts,
        layout.row_bytes,
        layout.files,
        layout.file,
        layout.offset,
    )
    pieces: list[Piece] = []
    last = Piece("", -1, -1, 0)
    for row, count, target in zip(rows, counts, targets, strict=True):
        while count:
            run = bisect_right(starts, row) - 1
            take = starts[run + 1] - row
            if take > count:  # nearly always; this loop is most of what a batch costs besides the copying
                take = count
            offset, length = offsets[run] + (row - starts[run]) * one, take * one
            file = files[owners[run]]
            if (
                last.target + last.length == target
                and last.offset + last.length == offset
                and last.file is file
            ):
                last.length += length
            else:
                last = Piece(file, offset, target, length)
                pieces.append(last)
            row, count, target = row + take, count - take, target + length
    return pieces


def _cores() -> int:
    """Return how many threads may copy at once."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, COPIERS)


def shares(pieces: Sequence[Piece], most: int) -> list[list[Piece]]:
    """Divide pieces into up to `most` shares of like size, cut where need be, and not below `SHARE` bytes."""
    total = sum(piece.length for piece in pieces)
    count = max(1, min(most, total // SHARE))
    if count == 1:
        return [list(pieces)]
    found: list[list[Piece]] = []
    size, room = -(-total // count), 0
    for piece in pieces:
        done = 0
        while done < piece.length:
            if not room:
                found.append([])
                room = size
            take = min(piece.length - done, room)
            found[-1].append(Piece(piece.file, piece.offset + done, piece.target + done, take))
            done, room = done + take, room - take
    return found


def _copy(pieces: Sequence[tuple[_Open, Piece]], buffer: memoryview) -> None:
    """Copy what the page cache has, announce the rest, and wait for it."""
    waiting = [
        (file, piece, done) for file, piece in pieces if (done := _take(file, piece, buffer)) < piece.length
    ]
    if len(waiting) > 1:  # for one run of rows the kernel's own read-ahead is better
        for file, piece, done in waiting:
            _announce(file.fd, piece.offset + done, piece.length - done)
    for file, piece, done in waiting:
        _finish(file, piece, done, buffer)


def _take(file: _Open, piece: Piece, buffer: memoryview) -> int:
    """Copy what the page cache has, without waiting; return the bytes copied."""
    global _NOWAIT  # noqa: PLW0603 - a property of the kernel, learnt once
    if not _NOWAIT:
        return 0
    try:
        return os.preadv(file.fd, [buffer[piece.target : piece.target + piece.length]], piece.offset, _NOWAIT)
    except BlockingIOError:
        return 0
    except OSError:  # this file system cannot
        _NOWAIT = 0
        return 0


def _announce(fd: int, offset: int, length: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def _finish(file: _Open, piece: Piece, done: int, buffer: memoryview) -> None:
    while done < piece.length:
        part = buffer[piece.target + done : piece.target + piece.length]
        got = _read_at(file.fd, part, piece.offset + done)
        if got == 0:
            raise _short(piece)
        done += got


def _read_at(fd: int, part: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [part], offset)
    data = os.pread(fd, len(part), offset)  # macOS
    part[: len(data)] = data
    return len(data)


def _missing(name: str) -> Damaged:
    return Damaged(
        f"{name} is missing",
        "if it was swept by `mer-fs gc`, open the store again; else `mer-fs verify` lists what is broken",
    )


def _short(piece: Piece) -> Damaged:
    end = piece.offset + piece.length
    return Damaged(f"{piece.file} ends before byte {end}", "`mer-fs verify` lists what is broken")
