"""Checking a whole store: the journal, every file, every group, every parent; everything wrong is listed."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.checksums import fault
from mer_featurestore.commits import Commit, Entry
from mer_featurestore.errors import Damaged, MerError
from mer_featurestore.journal import (
    CHECKPOINTS,
    FOLDER,
    commit_name,
    file_number,
    parse_commit,
    read_checkpoint,
)
from mer_featurestore.records import Progress
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.storage import Storage, open_storage

if TYPE_CHECKING:
    from mer_featurestore.store import Store

AT_ONCE = 256  # journal files fetched at once


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        kind: `journal`, `checkpoint`, `missing`, `size`, `checksum`, `content`, `key` or `parent`.
        where: The file, or `kind/name` of the thing.
        message: What is wrong with it.
    """

    kind: str
    where: str
    message: str


@dataclass
class Verification:
    """What was checked and what is wrong.

    Attributes:
        problems: Everything that is wrong; empty for a sound store.
        commits: Commits checked.
        entries: Groups and bundles checked.
        files: Files checked.
        size: Their bytes.
        leftovers: Files that no commit names (harmless; `gc` sweeps them).
        deep: Whether bytes were read, or only names and sizes compared.
    """

    deep: bool
    problems: list[Problem] = field(default_factory=list)
    commits: int = 0
    entries: int = 0
    files: int = 0
    size: int = 0
    leftovers: int = 0

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        how = "all bytes read" if self.deep else "names and sizes only"
        wrong = f"{len(self.problems)} problems" if self.problems else "sound"
        left = f"; {self.leftovers} files no commit names (mer-fs gc)" if self.leftovers else ""
        return (
            f"{wrong}: {self.commits} commits, {self.entries} groups and bundles, {self.files} files, "
            f"{self.size:,} bytes ({how}){left}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"ok": self.ok, **asdict(self)}

    def add(self, kind: str, where: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, where, message))


def verify(store: "Store", *, deep: bool = True, progress: Progress | None = None) -> Verification:
    """Check the journal, and everything that a readable snapshot names.

    Args:
        store: The store; `open_readable` opens one whose newest commits are damaged.
        deep: Read all bytes and compare checksums, shapes and keys; else only names and sizes.
        progress: Called with (files checked, files in all).

    Returns:
        The problems; damage in one place hides none in others.
    """
    found = Verification(deep)
    commits = _check_journal(store.storage, found)
    entries = _named_entries(store, commits)
    sizes = store.storage.list()
    total = sum(len(entry.files) for entry in entries.values())
    for entry in entries.values():
        _check_entry(store, entry, sizes, found)
        if progress is not None:
            progress(found.files, total)
    found.leftovers = _count_leftovers(sizes, entries)
    for placed in store.snapshot.all():
        for parent in placed.entry.parents:
            if not store.snapshot.has(parent):
                found.add("parent", placed.entry.ref, f"its parent {parent} is not in the store")
    if deep:
        _check_keys(store, found)
    return found


def open_readable(url: str | Path) -> "Store":
    """Open a store at its newest commit, or at the newest one before damage in the journal."""
    from mer_featurestore.store import Store

    try:
        return Store.open(url)
    except Damaged:
        for number in reversed(range(max(_journal_files(open_storage(url)), default=0))):
            try:
                return Store.open(url, at=number)
            except Damaged:
                continue
        raise


def _journal_files(storage: Storage) -> dict[int, str]:
    """Return number -> name of every commit's file."""
    return {n: name for name in storage.list(FOLDER) if (n := file_number(name)) is not None}


def _check_journal(storage: Storage, found: Verification) -> dict[int, Commit]:
    """Read every commit, note what is missing or damaged, and compare the checkpoints with a replay."""
    files = _journal_files(storage)
    commits: dict[int, Commit] = {}
    for number in range(1, max(files, default=0) + 1):
        if number not in files:
            found.add("journal", commit_name(number), "is missing")
    numbers = sorted(files)
    for start in range(0, len(numbers), AT_ONCE):
        batch = numbers[start : start + AT_ONCE]
        for number, data in zip(batch, storage.read_many([files[n] for n in batch]), strict=True):
            try:
                commits[number] = parse_commit(data, number)
            except Damaged as error:
                found.add("journal", files[number], _without_name(error, files[number]))
    found.commits = len(commits)
    _check_checkpoints(storage, commits, found)
    return commits


def _check_checkpoints(storage: Storage, commits: dict[int, Commit], found: Verification) -> None:
    state = Snapshot()
    for name in storage.list(CHECKPOINTS):
        if file_number(name) is None:
            continue
        try:
            checkpoint = read_checkpoint(storage, name)
        except Damaged as error:
            found.add("checkpoint", name, _without_name(error, name) + " (only a shortcut: delete it)")
            continue
        except FileNotFoundError:  # an older one, dropped meanwhile
            continue
        following = range(state.number + 1, checkpoint.number + 1)
        if any(number not in commits for number in following):
            return  # the commits before it are damaged: nothing to compare with
        state = state.advanced(commits[number] for number in following)
        if checkpoint.to_json() != state.to_json():
            found.add("checkpoint", name, "differs from the commits before it (only a shortcut: delete it)")


def _named_entries(store: "Store", commits: dict[int, Commit]) -> dict[str, Entry]:
    """Return path -> entry of what any snapshot from the oldest kept one on has."""
    oldest = store.snapshot.oldest
    entries = {placed.entry.path: placed.entry for placed in store.snapshot.all()}
    gone = {path for number, commit in commits.items() if number <= oldest for path in commit.remove}
    for commit in commits.values():
        entries.update((entry.path, entry) for entry in commit.add if entry.path not in gone)
    return entries


def _check_entry(store: "Store", entry: Entry, sizes: dict[str, int], found: Verification) -> None:
    before = len(found.problems)
    for name, facts in zip(entry.file_names(), entry.files.values(), strict=True):
        what = f"a file of {entry.ref}"
        if name not in sizes:
            found.add("missing", name, f"{what} is missing")
        elif sizes[name] != facts["size"]:
            found.add("size", name, f"{what} has {sizes[name]} bytes, not {facts['size']}")
        elif found.deep and (wrong := fault(store.storage, name, facts)):
            found.add("checksum", name, f"{what} {wrong}")
        found.files += 1
        found.size += int(facts["size"])
    found.entries += 1
    if found.deep and len(found.problems) == before:
        _check_content(store, entry, found)


def _check_content(store: "Store", entry: Entry, found: Verification) -> None:
    """Open what the bytes hold and check it against itself."""
    from mer_featurestore.fragments import Fragment
    from mer_featurestore.groups import open_group
    from mer_featurestore.label_files import layer_from_group

    try:
        if entry.kind == "features":
            Fragment(store.storage, entry).check()
        elif entry.kind == "labels":
            layer_from_group(open_group(store.storage, entry), entry.path)
        elif entry.kind == "clips":
            group = open_group(store.storage, entry)
            for name in group.names:
                group.read(name)
    except MerError as error:
        found.add("content", entry.path, str(error))


def _check_keys(store: "Store", found: Verification) -> None:
    """A key occurs once per space; fragments that cannot be read are reported elsewhere."""
    from mer_featurestore.fragments import Fragment

    for space in store.snapshot.names("features"):
        owner: dict[str, str] = {}
        for entry in store.snapshot.entries("features", space):
            try:
                keys = Fragment(store.storage, entry).key_list()
            except (MerError, OSError):
                continue
            for key in keys:
                if key in owner:
                    found.add(
                        "key", f"features/{space}", f"key {key!r} is in {owner[key]} and in {entry.path}"
                    )
                owner[key] = entry.path


def _count_leftovers(sizes: dict[str, int], entries: dict[str, Entry]) -> int:
    from mer_featurestore.commits import KINDS

    named = {name for entry in entries.values() for name in entry.file_names()}
    return sum(name.split("/", 1)[0] in KINDS and name not in named for name in sizes)


def _without_name(error: Damaged, name: str) -> str:
    return error.message.removeprefix(f"{name} ")
