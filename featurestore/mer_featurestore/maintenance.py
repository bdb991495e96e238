"""Keeping a store in order: sweep what no commit names, remove what nobody needs, check everything."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mer_featurestore.commits import KINDS, Change, Commit, Entry
from mer_featurestore.errors import BadInput, StoreError
from mer_featurestore.journal import Journal
from mer_featurestore.lineage import dependents, find
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.storage import STAGING
from mer_featurestore.verification import Problem, Verification, open_readable, verify

if TYPE_CHECKING:
    from mer_featurestore.store import Store

__all__ = ["GcReport", "Problem", "RemoveReport", "Verification", "gc", "open_readable", "remove", "verify"]

GRACE = 24 * 3600.0  # seconds; no writer leaves a file alone for so long before its commit names it


@dataclass(frozen=True)
class GcReport:
    """What a sweep deleted, or would delete.

    Attributes:
        files: Name -> bytes.
        oldest: The oldest snapshot that can still be read.
        gave_up: Whether older ones were given up by this sweep.
        dry_run: Nothing was done.
    """

    files: dict[str, int]
    oldest: int
    gave_up: bool
    dry_run: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {**asdict(self), "size": self.size}


@dataclass(frozen=True)
class RemoveReport:
    """What was removed, or would be.

    Attributes:
        ref: `kind/name`.
        entries: Groups or bundles it consists of.
        size: Bytes; `gc` frees them once no kept snapshot has them.
        dependents: What stands on it, as `kind/name`.
        dry_run: Nothing was done.
    """

    ref: str
    entries: int
    size: int
    dependents: tuple[str, ...]
    dry_run: bool

    def __str__(self) -> str:
        what = f"{self.ref} ({self.entries} entries, {self.size:,} bytes)"
        who = f"; {', '.join(self.dependents)} stand on it" if self.dependents else ""
        if self.dry_run:
            return f"would remove {what}{who}"
        return f"removed {what}{who}; older snapshots keep it until mer-fs gc --keep N"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def gc(
    store: "Store",
    *,
    keep: int | None = None,
    grace: float = GRACE,
    dry_run: bool = False,
    command: str = "",
    message: str = "",
) -> GcReport:
    """Delete files that no commit names, and optionally give up old snapshots.

    Args:
        store: The store; moves to the newest commit.
        keep: Keep only the newest `keep` snapshots readable; all by default. Older ones are given up in a
            commit before their files go, so a sweep that is killed leaves nothing half-readable.
        grace: Seconds for which unnamed files are left to the writer that may be about to commit them, and
            superseded snapshots to their readers. 0 is safe only when nobody else uses the store.
        dry_run: Only say what would be deleted.
        command: For the log.
        message: For the log.

    Raises:
        BadInput: `keep` below 1 or a negative `grace`.
        StoreError: The store was opened with `at`, or cannot be written.
        Damaged: A journal file is damaged, so that nobody can know what is still named.
    """
    if (keep is not None and keep < 1) or grace < 0:
        raise BadInput("gc keeps at least one snapshot, and grace is no negative time")
    if store.read_only:
        raise StoreError(
            f"this is commit {store.commit} of {store.url}, which is past", "open it without --at"
        )
    cutoff = time.time() - grace if grace else float("inf")
    changed = _changed(store)  # looked at before the journal: what is committed meanwhile is seen there
    store.refresh()
    readable = store.snapshot.oldest
    commits = store.journal.read(readable + 1, store.commit)
    named_now = _named(store.journal, readable, commits)
    oldest = readable if keep is None else _oldest_kept(readable, commits, keep, cutoff)
    named = _named(store.journal, oldest, commits)
    gave_up = named != named_now
    doomed = [n for n, changed_at in changed.items() if _sweepable(n, changed_at, cutoff, named, named_now)]
    sizes = _sizes(store, doomed)
    if not dry_run:
        if gave_up:
            store.write(lambda now: _give_up(now, oldest), command=command, message=message)
        store.storage.delete(doomed)
        store.storage.tidy(STAGING, cutoff)
    return GcReport(sizes, oldest if gave_up else readable, gave_up, dry_run)


def remove(
    store: "Store",
    name: str,
    *,
    dry_run: bool = False,
    force: bool = False,
    command: str = "",
    message: str = "",
) -> RemoveReport:
    """Remove a space, layer, run or adapter from later snapshots; earlier ones keep it until `gc`.

    Args:
        store: The store.
        name: `kind/name`, or a bare name that only one kind has.
        dry_run: Only say what would be removed and what stands on it.
        force: Remove it although runs, spaces or adapters stand on it. Labels that others stand on stay.
        command: For the log.
        message: For the log.

    Raises:
        UnknownName: There is nothing of that name.
        StoreError: Others stand on it, or it is the catalogue of clips.
    """
    report = _removal(store.snapshot if dry_run else store.journal.snapshot(), name, dry_run)
    if dry_run:
        return report

    def build(now: Snapshot) -> Change:
        nonlocal report
        report = _removal(now, report.ref, dry_run)
        _refuse_parents(report, force)
        return _without(now, report.ref)

    store.write(build, command=command, message=message)
    return report


def _removal(now: Snapshot, name: str, dry_run: bool) -> RemoveReport:
    ref = find(now, name)
    entries = _entries(now, ref)
    if entries[0].kind == "clips":
        raise StoreError(
            "the catalogue of clips cannot be removed", "remove features, labels, runs or adapters"
        )
    return RemoveReport(ref, len(entries), sum(e.size for e in entries), tuple(dependents(now, ref)), dry_run)


def _refuse_parents(report: RemoveReport, force: bool) -> None:
    if not report.dependents:
        return
    who = ", ".join(report.dependents[:8]) + (" …" if len(report.dependents) > 8 else "")
    message = (
        f"{who} would lose where {'it' if len(report.dependents) == 1 else 'they'} came from: {report.ref}"
    )
    if report.ref.startswith("labels/"):
        raise StoreError(message, "remove those first; labels that others stand on are never removed")
    if not force:
        raise StoreError(message, "remove those first, or use --force")


def _without(now: Snapshot, ref: str) -> Change:
    kind, _, name = ref.partition("/")
    lifted = (
        {name: dict.fromkeys(now.quarantine(name))} if kind == "features" and now.quarantine(name) else {}
    )
    return Change(remove=[entry.path for entry in _entries(now, ref)], quarantine=lifted)


def _entries(now: Snapshot, ref: str) -> list[Entry]:
    kind, _, name = ref.partition("/")
    return now.entries(kind, name)  # type: ignore[arg-type]  # `find` lets only kinds through


def _changed(store: "Store") -> dict[str, float]:
    """Return name -> time of change of all files that commits may name, and of the staging folder."""
    return {n: t for folder in (*KINDS, STAGING) for n, t in store.storage.modified(folder).items()}


def _sizes(store: "Store", names: Iterable[str]) -> dict[str, int]:
    doomed = set(names)
    folders = {name.split("/", 1)[0] for name in doomed}
    listed = {n: size for folder in sorted(folders) for n, size in store.storage.list(folder).items()}
    return {name: size for name, size in listed.items() if name in doomed}


def _oldest_kept(readable: int, commits: Sequence[Commit], keep: int, cutoff: float) -> int:
    """Return the oldest snapshot to keep: among the newest `keep`, or superseded only lately."""
    for commit in reversed(commits[: max(len(commits) - keep + 1, 0)]):
        if datetime.fromisoformat(commit.time).timestamp() <= cutoff:
            return commit.number  # it has superseded the one before it for long enough
    return readable


def _named(journal: Journal, oldest: int, commits: Sequence[Commit]) -> set[str]:
    """Return the paths of all entries that any snapshot from `oldest` on has."""
    paths = {placed.entry.path for placed in journal.snapshot(oldest).all()}
    return paths.union(e.path for commit in commits if commit.number > oldest for e in commit.add)


def _sweepable(name: str, changed: float, cutoff: float, named: set[str], named_now: set[str]) -> bool:
    if _below(name, named):
        return False
    # Files of given-up snapshots are known to be nobody's any more; others may be somebody's soon.
    return changed <= cutoff or _below(name, named_now)


def _below(name: str, paths: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:i]) in paths for i in range(1, len(parts) + 1))


def _give_up(now: Snapshot, oldest: int) -> Change:
    return Change(oldest=oldest) if oldest > now.oldest else Change()
