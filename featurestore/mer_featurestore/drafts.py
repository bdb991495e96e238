"""Groups written ahead of the commit that names them."""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mer_featurestore.commits import Entry, Kind
from mer_featurestore.errors import StoreError
from mer_featurestore.groups import Arrays, find_backend, fresh_path, publish

if TYPE_CHECKING:
    from mer_featurestore.store import Store


class Draft:
    """Publishes the groups of one commit, whose content may have to be made again after a lost race.

    A group is written once per distinct content; whatever the commit does not name in the end is deleted when
    the `with` block is left. (A process that is killed leaves files that no commit names: `gc` sweeps them.)
    """

    def __init__(self, store: "Store", backend: str | None = None) -> None:
        self._store, self._before = store, store.commit
        self._backend = find_backend(backend or store.backend)
        self._written: dict[Hashable, Entry] = {}

    def entry(
        self,
        kind: Kind,
        name: str,
        content: Hashable,
        make: Callable[[], tuple[Arrays, Mapping[str, Any]]],
        *,
        attrs: Mapping[str, Any],
        parents: tuple[str, ...] = (),
        folder: str | None = None,
        codecs: Mapping[str, str] | None = None,
    ) -> Entry:
        """Return the entry of a group, writing the group unless this content was written already.

        Args:
            kind: Of the entry.
            name: Of the entry.
            content: What tells contents apart.
            make: Returns the group's arrays and attributes.
            attrs: Of the entry.
            parents: Of the entry.
            folder: Where the group lies; `kind/name` by default, just `clips` for those.
            codecs: Codec per array, see `Backend.write`.
        """
        token = (kind, name, content)
        if token not in self._written:
            arrays, group_attrs = make()
            path = fresh_path(folder or (kind if kind == "clips" else f"{kind}/{name}"), self._backend)
            files = publish(self._store.storage, self._backend, path, arrays, group_attrs, codecs=codecs)
            self._written[token] = Entry(
                kind=kind,
                name=name,
                path=path,
                backend=self._backend.name,
                attrs=attrs,
                files=files,
                parents=parents,
            )
        # The same content may be committed with other facts, which are the journal's and not the group's.
        return replace(self._written[token], attrs=attrs, parents=parents)

    def keep(self, *entries: Entry | None) -> None:
        """Say which entries the commit names."""
        kept = {entry.path for entry in entries if entry is not None}
        self._written = {token: entry for token, entry in self._written.items() if entry.path not in kept}

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._written:
            discard(self._store, self._written.values(), self._before, failed=kind is not None)


def discard(store: "Store", entries: Iterable[Entry], before: int, *, failed: bool) -> None:
    """Delete what was written for a commit that does not name it; what cannot be deleted is left to `gc`.

    Args:
        store: Where it lies.
        entries: What was written.
        before: The newest commit before.
        failed: Whether an error came. It may have come after the commit was made (Ctrl-C, or a server whose
            answer was lost), so the journal is asked.
    """
    with contextlib.suppress(OSError, StoreError):
        named = store.journal.added_after(before) if failed else frozenset()
        store.storage.delete(file for e in entries if e.path not in named for file in e.file_names())
