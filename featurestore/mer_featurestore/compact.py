"""Merging small fragments into large ones, in one commit, while readers go on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.checksums import verify_files
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import UnknownName
from mer_featurestore.fragments import Fragment, draft_fragment, spec_from_json
from mer_featurestore.gather import fill
from mer_featurestore.groups import BACKENDS, Blocks, row_bytes
from mer_featurestore.journal import Change, Entry, Snapshot
from mer_featurestore.positional import Reader

if TYPE_CHECKING:
    from mer_featurestore.store import Store

TARGET_BYTES = 1 << 31
PIECE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done to a space.

    Attributes:
        space: Its name.
        before: Fragments before.
        after: Fragments after.
        files_before: Files before.
        files_after: Files after; the old ones stay on disk for older snapshots until `gc`.
    """

    space: str
    before: int
    after: int
    files_before: int
    files_after: int


def compact(
    store: "Store",
    space: str | None = None,
    *,
    target_bytes: int = TARGET_BYTES,
    command: str = "",
    message: str = "",
) -> list[Compacted]:
    """Merge the small fragments of a space, or of every space.

    Fragments smaller than half the target are merged, in store order, into fragments of about the target;
    each keeps its backend and codec. Memory stays bounded. Checksums of what is merged are verified first, so
    that damage is never copied under a fresh checksum. Readers of older snapshots go on reading the old
    fragments, which `gc` sweeps in time.

    Args:
        store: The store; moves to the commit.
        space: Which one; all by default.
        target_bytes: Size of a merged fragment.
        command: Command line or call, for the journal.
        message: Free text, for the journal.

    Returns:
        One for each space, changed or not. All changes are one commit; there is none when nothing is small.

    Raises:
        UnknownName: No such space.
        Damaged: A fragment is not what was committed; nothing is changed then.
    """
    if space is not None and space not in store.features:
        raise UnknownName("feature space", space, store.features)
    store.refresh()
    spaces = list(store.features) if space is None else [space]
    before = {name: store.snapshot.entries("features", name) for name in spaces}
    with ExitStack() as stack:
        drafts = {name: stack.enter_context(Draft(store, name)) for name in BACKENDS}
        merged = [pair for name in spaces for pair in _merge(store, name, target_bytes, drafts)]

        def build(snapshot: Snapshot) -> Change:
            # What somebody else has merged or removed meanwhile is left as it is.
            there = {entry.path for entry in snapshot.entries("features")}
            done = [(entry, parts) for entry, parts in merged if there.issuperset(parts)]
            return Change(add=[entry for entry, _ in done], remove=[p for _, parts in done for p in parts])

        after = store.write(build, command=command, message=message)
        for draft in drafts.values():
            draft.keep(*after.entries("features"))
    return [_report(name, before[name], after.entries("features", name)) for name in spaces]


def _merge(
    store: "Store", space: str, target_bytes: int, drafts: Mapping[str, Draft]
) -> Iterator[tuple[Entry, list[str]]]:
    """Write the merged fragments of a space; yield each with the paths of those it stands for."""
    for parts in _plan(store.features[space].fragments, target_bytes):
        for fragment in parts:
            verify_files(store.storage, fragment.entry)
        first, paths = parts[0].entry, [fragment.entry.path for fragment in parts]
        parents = dict.fromkeys(parent for fragment in parts for parent in fragment.entry.parents)
        spec = replace(spec_from_json(first.attrs["spec"]), parents=tuple(parents))
        rows = sum(fragment.rows for fragment in parts)
        pieces = (piece for fragment in parts for piece in _pieces(fragment))
        yield (
            draft_fragment(
                drafts[first.backend],
                spec,
                [key for fragment in parts for key in fragment.key_list()],
                np.concatenate([np.diff(fragment.offsets) for fragment in parts]),
                Blocks((rows, *spec.row_shape), np.dtype(spec.dtype), pieces),
                codec=first.attrs["codec"],
                content=tuple(paths),
            ),
            paths,
        )


def _plan(fragments: Sequence[Fragment], target_bytes: int) -> list[list[Fragment]]:
    """Return groups of two or more small fragments of one backend and codec, each about the target's size."""
    full: list[list[Fragment]] = []
    filling: dict[tuple[str, str | None], list[Fragment]] = {}
    for fragment in fragments:
        if _bytes(fragment) >= target_bytes / 2:
            continue
        group = filling.setdefault((fragment.entry.backend, fragment.entry.attrs["codec"]), [])
        if group and sum(map(_bytes, group)) + _bytes(fragment) > target_bytes:
            full.append(group.copy())
            group.clear()
        group.append(fragment)
    return [group for group in [*full, *filling.values()] if len(group) > 1]


def _bytes(fragment: Fragment) -> int:
    """Bytes of a fragment's rows, not compressed."""
    spec = spec_from_json(fragment.entry.attrs["spec"])
    return fragment.rows * row_bytes((fragment.rows, *spec.row_shape), spec.dtype)


def _pieces(fragment: Fragment) -> Iterator[NDArray[Any]]:
    """Yield a fragment's rows in pieces; each is overwritten by the next."""
    shape, dtype = fragment.group.shape("data"), fragment.group.dtype("data")
    one = row_bytes(shape, dtype)
    step = max(1, PIECE_BYTES // one)
    room = np.empty((min(step, shape[0]), *shape[1:]), dtype)
    reader = Reader(fragment.storage)
    for start in range(0, shape[0], step):
        piece = room[: min(step, shape[0] - start)]
        buffer = piece.reshape(-1).view(np.uint8)
        reader.read(fill(fragment, [start], [len(piece)], [0], buffer), buffer.data)
        yield piece


def _report(space: str, before: Sequence[Entry], after: Sequence[Entry]) -> Compacted:
    return Compacted(
        space, len(before), len(after), sum(len(e.files) for e in before), sum(len(e.files) for e in after)
    )
