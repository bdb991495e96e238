"""What of a recipe's products is there, since when, and by which command."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mer_featurestore import Store
from mer_featurestore.errors import NotAStore
from mer_zoo.probing.band import PROBE

if TYPE_CHECKING:
    from mer_featurestore.commits import Entry, Kind

KINDS: "tuple[Kind, ...]" = ("clips", "features", "labels", "runs", "adapters")


@dataclass(frozen=True, slots=True)
class Made:
    """A product that is there.

    Attributes:
        ref: Its name, as in `makes`.
        commit: The commit that made it first; 0 for what no commit made.
        command: The command of that commit; empty where it is not known.
        left: Clips a feature space still lacks; 0 is whole.
    """

    ref: str
    commit: int = 0
    command: str = ""
    left: int = 0


class State:
    """A store as a recipe sees it: asked anew before every step.

    Args:
        url: Of the store, which need not be there yet.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._commands: dict[int, str] = {}

    def find(self, makes: Iterable[str]) -> list[Made | None]:
        """Return each product as it is now, None where it is not there at all."""
        try:
            store = Store.open(self.url)
        except NotAStore:
            return [_file(ref) for ref in makes]
        return [_file(ref) or self._find(store, ref) for ref in makes]

    def _find(self, store: Store, ref: str) -> Made | None:
        if ref == "store":
            return Made(ref)
        kind, _, name = ref.partition("/")
        entries = _entries(store, kind, name)
        if not entries:
            return None
        commit = store.snapshot.placed(entries[0].path).commit
        left = _left(store, name) if kind == "features" else 0
        return Made(ref, commit, self._command(store, commit), left)

    def _command(self, store: Store, number: int) -> str:
        if number not in self._commands:
            self._commands = {commit.number: commit.command for commit in store.log()}
        return self._commands.get(number, "")


def _entries(store: Store, kind: str, name: str) -> "list[Entry]":
    """Return what is there of a kind and name; of `probe`, the probes of an extractor."""
    if kind == PROBE:
        probes = [entry for entry in store.snapshot.entries("runs") if entry.attrs.get("kind") == PROBE]
        return [entry for entry in probes if entry.attrs["plugin"] == name]
    known = next((known for known in KINDS if known == kind), None)
    return store.snapshot.entries(known, name or None) if known else []


def _file(ref: str) -> Made | None:
    return Made(ref) if ref.startswith("file:") and Path(ref.removeprefix("file:")).is_file() else None


def _left(store: Store, name: str) -> int:
    """Count the clips a space could have and has not: of its source's where it is derived, else of all."""
    space = store.features[name]
    sources = [
        ref for parent in space.spec.parents if (ref := parent.partition("/")[2]) in store.features
        and parent.startswith("features/")
    ]  # fmt: skip
    if sources:
        wanted = store.features[sources[0]].keys()
    else:
        wanted = [clip.key for clip in store.clips.select(having=space.spec.modality)]
    failed = store.features.quarantine(name)
    return sum(key not in failed for key in space.missing(wanted))


def other_command(made: Made, line: str) -> str:
    """Return the command that made a product when it was another one than this; the store aside."""
    return made.command if made.command and _words(made.command) != _words(line) else ""


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # a command somebody else put into the journal need not be one
        words = line.split()
    if "--store" in words:
        at = words.index("--store")
        del words[at : at + 2]
    return words
