"""The journal: numbered commits, each made by creating a file that was not there.

Creating `journal/N+1` only if it does not exist is the one atomic step of the whole store. Who loses the race
reads the winner's commit, asks again what to do, and tries the next number. Every 64th commit also leaves a
checkpoint (the whole state), so that opening reads one file and a short tail.
"""

import contextlib
import functools
import getpass
import itertools
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from mer_featurestore.commits import RESTORE_JOURNAL, Change, Commit, Entry, seal, unseal
from mer_featurestore.errors import Damaged, StoreError
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.storage import Storage

__all__ = ["Change", "Commit", "Entry", "Journal", "Snapshot"]

FOLDER = "journal"
CHECKPOINTS = "checkpoints"
EVERY = 64  # commits between checkpoints
KEPT_FOR_EVER = 1024  # checkpoints at multiples of this stay, for --at; of the others the newest two


def commit_name(number: int) -> str:
    """Return the file of a commit."""
    return f"{FOLDER}/{number:08d}.json"


def checkpoint_name(number: int) -> str:
    """Return the file of the checkpoint at a commit."""
    return f"{CHECKPOINTS}/{number:08d}.json"


def file_number(name: str) -> int | None:
    """Return the number of a commit's or checkpoint's file, None for what other programs left there."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".json")
    number = int(stem) if stem.isascii() and stem.isdigit() else -1
    return number if name in (commit_name(number), checkpoint_name(number)) else None


class Journal:
    """The commits of one store, with the newest state known so far kept in memory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._newest: Snapshot | None = None
        self._checkpoint_overdue = False
        self._lock = threading.RLock()

    def head(self) -> int:
        """Return the number of the newest commit, 0 when there is none."""
        return self._refresh().number

    def snapshot(self, at: int | None = None) -> Snapshot:
        """Return the state at a commit, the newest by default.

        Raises:
            StoreError: There is no such commit, or its files were given up to `gc`.
            Damaged: A journal file that is needed for it is missing or not what was written.
        """
        if at is None:
            return self._refresh()
        if self._newest is not None and self._newest.number == at:
            return self._newest
        past = self._load(at)
        # Damage behind `at` is no reason not to read what came before it.
        with contextlib.suppress(Damaged):
            oldest = self._refresh().oldest
            if at < oldest:
                raise StoreError(f"commit {at} was given up to `mer-fs gc`", f"the oldest kept is {oldest}")
        return past

    def log(self, limit: int | None = None, *, upto: int | None = None) -> Iterator[Commit]:
        """Yield commits, newest first (from `upto` when given)."""
        head = self.head() if upto is None else upto
        last = 0 if limit is None else max(0, head - limit)
        for stop in range(head, last, -EVERY):
            yield from reversed(self.read(max(stop - EVERY, last) + 1, stop))

    def read(self, first: int, last: int) -> list[Commit]:
        """Return the commits `first` to `last`; Damaged when a file is missing or not what was written."""
        numbers = range(first, last + 1)
        try:
            datas = self.storage.read_many([commit_name(number) for number in numbers])
        except FileNotFoundError as error:
            missing = next(
                (n for n in map(commit_name, numbers) if not self.storage.exists(n)), commit_name(last)
            )
            raise Damaged(f"{missing} is missing", RESTORE_JOURNAL) from error
        return [parse_commit(data, number) for data, number in zip(datas, numbers, strict=True)]

    def added_after(self, number: int) -> frozenset[str]:
        """Return the paths of everything that was added by commits after this one."""
        later = self.read(number + 1, self.head())
        return frozenset(entry.path for commit in later for entry in commit.add)

    def commit(
        self, build: Callable[[Snapshot], Change], *, command: str = "", message: str = ""
    ) -> Snapshot:
        """Make one commit of what `build` returns for the newest snapshot.

        Args:
            build: Called with the newest snapshot, and again with the then newest after each lost race; it
                raises when the change is not possible (a name is taken), which ends the commit.
            command: Command line or call, for the log.
            message: Free text, for the log.

        Returns:
            The snapshot that has the change; the newest one as it is when the change is empty.
        """
        for losses in itertools.count():  # each loss is another's success, so all get through
            with self._lock:
                newest = self._refresh()
                change = build(newest)
                if not change:
                    return newest
                commit = _stamped(newest.number + 1, change, command, message)
                if self._create(commit):
                    return self._advance(newest, commit)
            time.sleep(random.random() * 0.002 * min(losses, 20))  # noqa: S311 - only spreads the retries
        raise AssertionError  # pragma: no cover - count() has no end

    def _create(self, commit: Commit) -> bool:
        """Create the journal file; False when another commit has this number."""
        name = commit_name(commit.number)
        try:
            self.storage.create(name, commit.to_bytes())
        except FileExistsError:
            # A client that repeats a request whose answer was lost meets its own file.
            return self.read(commit.number, commit.number)[0].id == commit.id
        return True

    def _advance(self, before: Snapshot, commit: Commit) -> Snapshot:
        newest = self._newest = before.advanced([commit])
        if commit.number % EVERY == 0 or self._checkpoint_overdue:
            self._checkpoint(newest)
        return newest

    def _refresh(self) -> Snapshot:
        """Read the commits that came since the last look, one by one: most often there is none."""
        with self._lock:
            return self._refresh_locked()

    def _refresh_locked(self) -> Snapshot:
        if self._newest is None:
            self._newest = self._load(None)
            return self._newest
        new: list[Commit] = []
        for number in itertools.count(self._newest.number + 1):
            try:
                data = self.storage.read(commit_name(number))
            except FileNotFoundError:
                break
            new.append(parse_commit(data, number))
        if new:
            self._newest = self._newest.advanced(new)
        return self._newest

    def _load(self, at: int | None) -> Snapshot:
        """Read the newest checkpoint not behind `at`, and the commits from there."""
        if at is not None and at < 0:
            raise StoreError(f"there is no commit {at}", "commits are numbered from 1")
        start = self._load_checkpoint(at)
        listed = [file_number(name) for name in self.storage.list(FOLDER, after=commit_name(start.number))]
        last = max((n for n in listed if n is not None), default=start.number)
        if at is not None and at > last:
            raise StoreError(f"there is no commit {at}", f"the newest is {last}")
        last = last if at is None else at
        numbers = range(start.number + 1, last + 1)
        missing = sorted(set(numbers) - set(listed))
        if missing:
            raise Damaged(f"{commit_name(missing[0])} is missing", RESTORE_JOURNAL)
        self._checkpoint_overdue = at is None and len(numbers) >= 2 * EVERY
        return start.advanced(self.read(start.number + 1, last))

    def _load_checkpoint(self, at: int | None) -> Snapshot:
        """Return the state of the newest usable checkpoint; a damaged one only costs time."""
        for name in sorted(self.storage.list(CHECKPOINTS), reverse=True):
            number = file_number(name)
            if number is None or (at is not None and number > at):
                continue
            with contextlib.suppress(Damaged, FileNotFoundError):
                return read_checkpoint(self.storage, name)
        return Snapshot()

    def _checkpoint(self, snapshot: Snapshot) -> None:
        """Write a checkpoint and drop older ones; the commit stands whether this works or not."""
        with contextlib.suppress(OSError, StoreError):
            self.storage.create(checkpoint_name(snapshot.number), seal(snapshot.to_json()))
            self._checkpoint_overdue = False
            old = sorted(self.storage.list(CHECKPOINTS))[:-2]
            self.storage.delete([name for name in old if (file_number(name) or 0) % KEPT_FOR_EVER])


def read_checkpoint(storage: Storage, name: str) -> Snapshot:
    """Return the state a checkpoint holds; Damaged when its bytes are not what was written."""
    document = unseal(storage.read(name), name)
    try:
        return Snapshot.from_json(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{name} is not a checkpoint: {error}", "delete it; it is only a shortcut") from error


def parse_commit(data: bytes, number: int) -> Commit:
    """Read the file of a commit; Damaged when it is not what was written, or another commit's."""
    name = commit_name(number)
    commit = Commit.from_bytes(data, name)
    if commit.number != number:
        raise Damaged(f"{name} holds commit {commit.number}", RESTORE_JOURNAL)
    return commit


def _stamped(number: int, change: Change, command: str, message: str) -> Commit:
    return Commit(
        number=number,
        id=secrets.token_hex(8),
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        user=_user(),
        host=socket.gethostname(),
        command=command,
        message=message,
        add=tuple(change.add),
        remove=tuple(change.remove),
        quarantine=change.quarantine,
        oldest=change.oldest,
    )


@functools.cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such account on this machine, as in a container
        return str(os.getuid())
