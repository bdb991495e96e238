"""Where things come from: every committed thing names its parents; here they are walked down to the media."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mer_featurestore.commits import KINDS, Entry
from mer_featurestore.errors import StoreError, UnknownName
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.wording import plural

BARE_KINDS = tuple(kind for kind in KINDS if kind != "clips")  # what a bare name can mean


@dataclass(frozen=True)
class Node:
    """One thing and, below it, what it was made from.

    Attributes:
        ref: `kind/name`, or `media/audio` and the like at the bottom.
        detail: What it is, in a few words.
        commit: Number of the commit that first named it; None for media, and for what is not there.
        time: Of that commit, ISO 8601 UTC.
        missing: Somebody names it as a parent, but the store does not have it (any more).
        parents: What it was made from.
    """

    ref: str
    detail: str = ""
    commit: int | None = None
    time: str = ""
    missing: bool = False
    parents: tuple["Node", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the tree as plain JSON."""
        return {
            "ref": self.ref,
            "detail": self.detail,
            "commit": self.commit,
            "time": self.time,
            "missing": self.missing,
            "parents": [parent.to_json() for parent in self.parents],
        }

    def to_text(self) -> str:
        """Return the tree drawn with lines, one thing a line."""
        return "\n".join(_lines(self, "", ""))

    def to_dot(self) -> str:
        """Return the graph in Graphviz's DOT language; arrows point to what a thing was made from."""
        nodes = {node.ref: node for node in self.walk()}
        edges = {(node.ref, parent.ref): None for node in self.walk() for parent in node.parents}
        lines = ["digraph lineage {", "  rankdir=LR; node [shape=box, fontname=sans-serif];"]
        for ref, node in nodes.items():
            style = ", style=dashed" if node.missing else ""
            lines.append(f"  {_quoted(ref)} [label={_quoted(ref, node.detail)}{style}];")
        lines += [f"  {_quoted(child)} -> {_quoted(parent)};" for child, parent in edges]
        return "\n".join([*lines, "}"])

    def walk(self) -> Iterator["Node"]:
        """Yield the node and everything below it; shared parents come once for each child."""
        yield self
        for parent in self.parents:
            yield from parent.walk()


def lineage(snapshot: Snapshot, name: str) -> Node:
    """Return the tree of what a thing was made from.

    Args:
        snapshot: Usually `store.snapshot`.
        name: `kind/name`, or a bare name that only one kind has.

    Raises:
        UnknownName: There is nothing of that name.
        StoreError: Several kinds have that name.
    """
    return _node(snapshot, find(snapshot, name), ())


def ancestors(snapshot: Snapshot, name: str) -> set[str]:
    """Return `kind/name` of everything a thing was made from, at any depth."""
    return {node.ref for node in lineage(snapshot, name).walk()} - {find(snapshot, name)}


def dependents(snapshot: Snapshot, ref: str) -> list[str]:
    """Return `kind/name` of everything that names `ref` as its parent."""
    found = {p.entry.ref: None for p in snapshot.all() if ref in p.entry.parents and p.entry.ref != ref}
    return list(found)


def find(snapshot: Snapshot, name: str) -> str:
    """Return `kind/name` for a name as people type it.

    Raises:
        UnknownName: There is nothing of that name.
        StoreError: Several kinds have that name.
    """
    if "/" in name:
        snapshot.check_parents([name])
        return name
    kinds = [kind for kind in BARE_KINDS if name in snapshot.names(kind)]
    if not kinds:
        raise UnknownName(
            "thing in the store", name, [n for kind in BARE_KINDS for n in snapshot.names(kind)]
        )
    if len(kinds) > 1:
        raise StoreError(
            f"there are several things named {name!r}",
            "say which: " + ", ".join(f"{k}/{name}" for k in kinds),
        )
    return f"{kinds[0]}/{name}"


def _node(snapshot: Snapshot, ref: str, above: tuple[str, ...]) -> Node:
    kind, _, name = ref.partition("/")
    entries = snapshot.entries(kind, name) if kind in KINDS else []
    if not entries or ref in above:  # a thing below itself cannot be, but must not hang us
        return Node(ref, missing=not entries)
    refs = dict.fromkeys(parent for entry in entries for parent in entry.parents)
    parents = [_node(snapshot, parent, (*above, ref)) for parent in refs]
    first = min((snapshot.placed(entry.path) for entry in entries), key=lambda placed: placed.commit)
    detail = _DETAILS.get(kind, _files)(entries)
    return Node(ref, detail, first.commit, first.time, parents=(*parents, *_media(entries)))


def _lines(node: Node, first: str, rest: str) -> Iterator[str]:
    facts = [node.detail, f"commit {node.commit}, {node.time[:10]}" if node.commit else ""]
    facts += ["not in the store any more"] if node.missing else []
    yield "  ".join([first + node.ref, *filter(None, facts)])
    for i, parent in enumerate(node.parents):
        last = i == len(node.parents) - 1
        yield from _lines(parent, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def _media(entries: list[Entry]) -> Iterator[Node]:
    if entries[0].kind == "features":
        yield Node(f"media/{entries[0].attrs.get('spec', {}).get('modality', 'unknown')}")


def _features(entries: list[Entry]) -> str:
    spec = entries[0].attrs.get("spec", {})
    made_by: Mapping[str, Any] = spec.get("made_by", {})
    maker = next((str(made_by[field]) for field in ("plugin", "name", "source") if made_by.get(field)), "")
    clips = sum(int(entry.attrs.get("clips", 0)) for entry in entries)
    row = "x".join(str(n) for n in spec.get("row_shape", ()))
    return ", ".join(filter(None, [maker, str(spec.get("level", "")), row, plural(clips, "clip")]))


def _labels(entries: list[Entry]) -> str:
    attrs = entries[0].attrs
    sources = ", ".join(f"{count} {source}" for source, count in attrs.get("sources", {}).items() if count)
    strategy = attrs.get("attrs", {}).get("strategy", "")
    return ", ".join(filter(None, [sources, str(strategy) if isinstance(strategy, str) else ""]))


def _files(entries: list[Entry]) -> str:
    count = sum(len(entry.files) for entry in entries)
    attrs = entries[0].attrs
    model = next((str(attrs[field]) for field in ("model", "card", "encoder") if attrs.get(field)), "")
    return ", ".join(filter(None, [model, plural(count, "file")]))


def _clips(entries: list[Entry]) -> str:
    return plural(sum(int(entry.attrs.get("added", 0)) for entry in entries), "clip")


_DETAILS = {"features": _features, "labels": _labels, "clips": _clips}


def _quoted(*lines: str) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(escaped) + '"'
