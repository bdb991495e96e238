"""Positional reads: bytes at computed offsets of many files straight into one buffer.

This is the hot path. `preadv` needs no file position, so descriptors may be shared with forked workers. What
lies in the page cache is taken at once (`RWF_NOWAIT`); from the first miss on, the rest is announced to the
kernel (`WILLNEED`) for the whole batch before it is waited for. Large batches are copied by several threads.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mer_featurestore.errors import RESTORE, Damaged
from mer_featurestore.groups import Layout

if TYPE_CHECKING:
    from mer_featurestore.storage import Storage

OPEN_FILES = 256
REMOTE_READS = 16
COPIERS, SHARE = 4, 1 << 22  # threads that copy one batch at most, and the least bytes worth one
RUNS = 2  # up to so many pieces are a walk through a space, over the end of a file perhaps
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

    def part(self, first: int, length: int) -> "Piece":
        """Return some of its bytes."""
        return Piece(self.file, self.offset + first, self.target + first, length)


class _Open:
    """A file descriptor that is closed when nobody uses it any more."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


Share = list[tuple[_Open, Piece]]
Done = TypeVar("Done")


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
        opened = [(self._open(piece.file), piece) for piece in pieces]
        if len(pieces) <= RUNS:
            head, *rest = shares(opened, 2)
            left = _take(head, buffer)
            if left or not rest:  # on the disk: the kernel's own read-ahead is best, and wants one reader
                _wait([*left, *chain(*rest)], buffer)
                return
            opened = rest[0]
        waiting = opened
        file, first = opened[0]
        if _cached(file, first.part(0, 1), buffer):  # else most of it is on the disk
            parts = shares(opened, _cores())
            waiting = list(chain(*_in_threads(lambda part: _take(part, buffer), parts)))
        waiting.sort(key=lambda each: (each[1].file, each[1].offset))  # the disk likes order
        for file, piece in waiting:
            _announce(file.fd, piece)
        _in_threads(lambda part: _wait(part, buffer), shares(waiting, _cores()))

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


def shares(pieces: Share, most: int) -> list[Share]:
    """Divide pieces into up to `most` shares of like size, cut where need be, and not below `SHARE` bytes."""
    total = sum(piece.length for _, piece in pieces)
    count = max(1, min(most, total // SHARE))
    if count == 1:
        return [pieces]
    found: list[Share] = []
    size, room = -(-total // count), 0
    for file, piece in pieces:
        done = 0
        while done < piece.length:
            if not room:
                found.append([])
                room = size
            take = min(piece.length - done, room)
            found[-1].append((file, piece.part(done, take)))
            done, room = done + take, room - take
    return found


def _in_threads(work: Callable[[Share], Done], parts: Sequence[Share]) -> list[Done]:
    """Do the parts at once; copying lets go of the GIL."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    # The pool ends with the call: a thread would not survive a fork.
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(work, part) for part in parts[1:]]
        return [work(parts[0]), *(other.result() for other in others)]


def _take(share: Share, buffer: memoryview) -> Share:
    """Copy what the page cache has, without waiting, up to the first bytes it has not; return the rest.

    It stops there because every miss makes the kernel read ahead, beyond the piece.
    """
    for i, (file, piece) in enumerate(share):
        done = _cached(file, piece, buffer)
        if done < piece.length:
            return [(file, piece.part(done, piece.length - done)), *share[i + 1 :]]
    return []


def _cached(file: _Open, piece: Piece, buffer: memoryview) -> int:
    """Copy from the page cache; return the bytes copied."""
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


def _announce(fd: int, piece: Piece) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, piece.offset, piece.length, os.POSIX_FADV_WILLNEED)


def _wait(share: Share, buffer: memoryview) -> None:
    """Copy, waiting for the disk."""
    for file, piece in share:
        done = 0
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
        "if it was swept by `mer-fs gc`, open the store again; else `mer-fs verify` lists all damage",
    )


def _short(piece: Piece) -> Damaged:
    end = piece.offset + piece.length
    return Damaged(f"{piece.file} ends before byte {end}", RESTORE)
