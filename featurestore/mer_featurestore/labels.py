"""The label layers of a store: committed once, resolved through what they stand on."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mer_featurestore.commits import Change, Entry
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import NameTaken, UnknownName
from mer_featurestore.groups import open_group
from mer_featurestore.label_files import layer_from_group, layer_to_group
from mer_featurestore.label_layer import HUMAN, NO_CLASS, PSEUDO, SOURCES, LabelLayer
from mer_featurestore.label_report import Blame, Diff, LayerStats, blame, diff, stats
from mer_featurestore.resolve import Resolved, class_columns, flatten, resolve
from mer_featurestore.snapshot import Snapshot

if TYPE_CHECKING:
    from mer_featurestore.store import Store

__all__ = ["HUMAN", "NO_CLASS", "PSEUDO", "SOURCES", "LabelLayer", "Layers", "Resolved", "resolve"]

PREFIX = "labels/"


class Layers(Mapping[str, LabelLayer]):
    """The label layers of a store by name, oldest first."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._read: dict[str, LabelLayer] = {}  # path -> layer; layers never change

    def __getitem__(self, name: str) -> LabelLayer:
        """Return a layer; UnknownName when there is none."""
        return self.at(self._store.snapshot, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.snapshot.names("labels"))

    def __len__(self) -> int:
        return len(self._store.snapshot.names("labels"))

    def __contains__(self, name: object) -> bool:
        return name in self._store.snapshot.names("labels")

    def __repr__(self) -> str:
        lines = []
        for name in self:
            facts = self.facts(name)
            counts = " ".join(f"{c}={n}" for c, n in facts["counts"].items())
            over = f" over {', '.join(facts['parents'])}" if facts["parents"] else ""
            lines.append(f"  {name}: {facts['kept']} of {facts['rows']} clips; {counts}{over}")
        return "\n".join([f"<Layers: {len(self)}>", *lines])

    def facts(self, name: str) -> dict[str, Any]:
        """Return what the journal says of a layer, without reading it.

        Keys: `name`, `rows`, `kept`, `classes`, `counts` (class -> kept clips), `sources`, `members`,
        `parents`, `attrs` (strategy and its parameters), `commit`, `time`.
        """
        entry = self._entry(self._store.snapshot, name)
        placed = self._store.snapshot.placed(entry.path)
        return {
            "name": name,
            **entry.attrs,
            "parents": list(entry.parents),
            "commit": placed.commit,
            "time": placed.time,
        }

    def newest(self) -> str:
        """Return the layer committed last; UnknownName when there is none."""
        names = list(self)
        if not names:
            raise UnknownName(
                "label layer", "(newest)", (), "import one: mer-fs labels import LABELS.csv --as gold"
            )
        return names[-1]

    def add(self, layer: LabelLayer, *, command: str = "", message: str = "") -> LabelLayer:
        """Commit a layer; it never changes afterwards.

        Raises:
            NameTaken: There is, or was, a layer of that name.
            UnknownName: A parent is not in the store.
            BadInput: A label layer under it has a class it does not have.
        """
        self.check(self._store.journal.snapshot(), layer)  # before anything is written
        with Draft(self._store) as draft:
            entry: Entry | None = None

            def build(now: Snapshot) -> Change:
                nonlocal entry
                self.check(now, layer)
                entry = self.entry(draft, layer)
                return Change(add=[entry])

            self._store.write(build, command=command, message=message)
            draft.keep(entry)
        return layer

    def check(self, now: Snapshot, layer: LabelLayer) -> None:
        """Raise what `add` would raise for a layer at a snapshot."""
        if now.has(PREFIX + layer.name):
            raise NameTaken(
                f"there is a label layer {layer.name!r} already, and it never changes",
                "give the new one another name",
            )
        if layer.name in now.retired:
            raise NameTaken(
                f"there was a label layer {layer.name!r}, removed by commit {now.retired[layer.name]}",
                "a layer is named once for ever, so that results name what they mean; give it another name",
            )
        now.check_parents(layer.parents)
        for parent in layer.parents:
            if parent.startswith(PREFIX):
                class_columns(self.at(now, parent.removeprefix(PREFIX)), layer)

    def holds(self, now: Snapshot, layer: LabelLayer) -> bool:
        """Say whether the very same labels are stored under that name already.

        Raises:
            NameTaken: Other labels are; the message counts the differences.
        """
        if not now.has(PREFIX + layer.name):
            return False
        there = self.at(now, layer.name)
        changes = diff(flatten(there), flatten(layer))
        if there.classes == layer.classes and not changes:
            return True
        what = (
            f"{len(changes.added)} labels added, {len(changes.removed)} removed, {len(changes.flips)} changed"
            if changes
            else f"the classes are {', '.join(layer.classes)} and were {', '.join(there.classes)}"
        )
        raise NameTaken(
            f"there is a label layer {layer.name!r} already, and it never changes ({what})",
            "store the labels under another name with --labels-as, or leave them out",
        )

    def entry(self, draft: Draft, layer: LabelLayer) -> Entry:
        """Write a layer and return the entry that names it."""
        sources = {name: int((layer.kept & (layer.source == i)).sum()) for i, name in enumerate(SOURCES)}
        attrs = {
            "rows": len(layer),
            "kept": int(layer.kept.sum()),
            "classes": list(layer.classes),
            "counts": layer.counts(),
            "sources": sources,
            "members": list(layer.members),
            "attrs": dict(layer.attrs),
        }
        return draft.entry(
            "labels", layer.name, id(layer), lambda: layer_to_group(layer), attrs=attrs, parents=layer.parents
        )

    def stack(self, name: str) -> list[LabelLayer]:
        """Return a layer and the layers it stands on, nearest first, each once."""
        ordered: dict[str, LabelLayer] = {}
        waiting = [name]
        while waiting:
            here = waiting.pop(0)
            if here not in ordered:
                ordered[here] = self[here]
                below = [p.removeprefix(PREFIX) for p in ordered[here].parents if p.startswith(PREFIX)]
                waiting.extend(below)
        return list(ordered.values())

    def resolve(self, name: str) -> Resolved:
        """Return what a layer says together with everything it stands on; human labels always win."""
        return resolve(self.stack(name))

    def diff(self, a: str, b: str, *, own: bool = False) -> Diff:
        """Compare two layers as resolved, or their own rows only."""
        see = (lambda name: flatten(self[name])) if own else self.resolve
        return diff(see(a), see(b))

    def blame(self, key: str, name: str | None = None) -> Blame:
        """Say why a clip has the label it has under a layer; by default the newest that says anything of it.

        Raises:
            UnknownName: No such layer, or nothing in it or below it speaks of the clip.
        """
        stack = self.stack(name or self._newest_of(key))
        return blame(stack, resolve(stack), key)

    def _newest_of(self, key: str) -> str:
        """Return the newest layer that speaks of a clip, itself or through one below it; else the newest."""
        newest = self.newest()
        spoken = (name for name in reversed(list(self)) if any(key in layer for layer in self.stack(name)))
        return next(spoken, newest)

    def stats(self, name: str) -> LayerStats:
        """Return a layer in numbers."""
        return stats(self[name])

    def at(self, now: Snapshot, name: str) -> LabelLayer:
        """Return a layer as of a snapshot; UnknownName when there is none."""
        entry = self._entry(now, name)
        if entry.path not in self._read:
            self._read[entry.path] = layer_from_group(open_group(self._store.storage, entry), entry.path)
        return self._read[entry.path]

    def _entry(self, now: Snapshot, name: str) -> Entry:
        entries = now.entries("labels", name)
        if not entries:
            raise UnknownName("label layer", name, now.names("labels"))
        return entries[0]
