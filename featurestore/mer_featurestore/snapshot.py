"""What a store holds at one commit."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mer_featurestore.commits import KINDS, Commit, Entry, Kind
from mer_featurestore.errors import StoreError, UnknownName


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry with the number and time of the commit that added it."""

    entry: Entry
    commit: int
    time: str


class Snapshot:
    """The committed state at one commit number; never changes.

    Attributes:
        number: Of the commit; 0 is the empty store.
        oldest: The oldest snapshot that is still whole (raised by `gc`).
        retired: Name of a removed label layer -> the commit that removed it: a layer is named once.
    """

    def __init__(
        self,
        number: int = 0,
        oldest: int = 0,
        placed: Mapping[str, Placed] | None = None,
        quarantine: Mapping[str, Mapping[str, str]] | None = None,
        retired: Mapping[str, int] | None = None,
    ) -> None:
        self.number = number
        self.oldest = oldest
        self.retired = dict(retired or {})
        self._placed = dict(placed or {})
        self._quarantine = {space: dict(reasons) for space, reasons in (quarantine or {}).items()}

    def __repr__(self) -> str:
        return f"Snapshot({self.number}, {len(self._placed)} entries)"

    def entries(self, kind: Kind, name: str | None = None) -> list[Entry]:
        """Return the entries of a kind (and name), in order of their commits."""
        groups = self._by_kind.get(kind, {})
        if name is not None:
            return list(groups.get(name, ()))
        return [entry for placed in self._placed.values() if (entry := placed.entry).kind == kind]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of a kind, in order of their first commit."""
        return list(self._by_kind.get(kind, ()))

    def has(self, ref: str) -> bool:
        """Say whether `kind/name` is there."""
        kind, _, name = ref.partition("/")
        return name in self._by_kind.get(kind, ())

    def placed(self, path: str) -> Placed:
        """Return an entry with its commit, by path; KeyError."""
        return self._placed[path]

    def all(self) -> list[Placed]:
        """Return every entry with its commit."""
        return list(self._placed.values())

    def quarantine(self, space: str) -> dict[str, str]:
        """Return key -> reason of the clips this space could not be made for."""
        return dict(self._quarantine.get(space, {}))

    def quarantined_spaces(self) -> list[str]:
        """Return the spaces with anything in quarantine."""
        return list(self._quarantine)

    def check_parents(self, parents: Iterable[str]) -> None:
        """Raise UnknownName for a parent (`kind/name`) that is not there."""
        for parent in parents:
            if not self.has(parent):
                known = [f"{kind}/{name}" for kind in KINDS for name in self.names(kind)]
                raise UnknownName("thing in the store", parent, known)

    def advanced(self, commits: Iterable[Commit]) -> "Snapshot":
        """Return the snapshot after these commits, which must be the next ones."""
        new = Snapshot(self.number, self.oldest, self._placed, self._quarantine, self.retired)
        for commit in commits:
            new._apply(commit)
        return new

    def to_json(self) -> dict[str, Any]:
        """Return the whole state as plain JSON."""
        placed = [
            {"entry": asdict(p.entry), "commit": p.commit, "time": p.time} for p in self._placed.values()
        ]
        return {
            "number": self.number,
            "oldest": self.oldest,
            "placed": placed,
            "quarantine": self._quarantine,
            "retired": self.retired,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Snapshot":
        """Rebuild from `to_json`."""
        placed = [Placed(Entry.from_json(p["entry"]), p["commit"], p["time"]) for p in document["placed"]]
        by_path = {p.entry.path: p for p in placed}
        number, oldest, retired = document["number"], document["oldest"], document.get("retired", {})
        return cls(number, oldest, by_path, document["quarantine"], retired)

    @cached_property
    def _by_kind(self) -> dict[str, dict[str, list[Entry]]]:
        groups: dict[str, dict[str, list[Entry]]] = {}
        for placed in self._placed.values():
            entry = placed.entry
            groups.setdefault(entry.kind, {}).setdefault(entry.name, []).append(entry)
        return groups

    def _apply(self, commit: Commit) -> None:
        if commit.number != self.number + 1:
            raise StoreError(f"commit {commit.number} does not follow commit {self.number}")
        self.number = commit.number
        for path in commit.remove:
            gone = self._placed.pop(path, None)
            if gone is not None and gone.entry.kind == "labels":
                self.retired[gone.entry.name] = commit.number
        for entry in commit.add:
            self._placed[entry.path] = Placed(entry, commit.number, commit.time)
        for space, reasons in commit.quarantine.items():
            self._apply_quarantine(space, reasons)
        if commit.oldest is not None:
            self.oldest = max(self.oldest, commit.oldest)

    def _apply_quarantine(self, space: str, reasons: Mapping[str, str | None]) -> None:
        here = self._quarantine.setdefault(space, {})
        for key, reason in reasons.items():
            if reason is None:
                here.pop(key, None)
            else:
                here[key] = reason
        if not here:
            del self._quarantine[space]
