"""Runs and adapters: named, immutable folders of files."""

import atexit
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mer_featurestore.commits import Change, Entry
from mer_featurestore.drafts import discard
from mer_featurestore.errors import Damaged, NameTaken, UnknownName
from mer_featurestore.names import check_name, check_relative, fresh
from mer_featurestore.snapshot import Placed, Snapshot
from mer_featurestore.storage import Storage, explained

if TYPE_CHECKING:
    from mer_featurestore.store import Store

BundleKind = Literal["runs", "adapters"]
SINGULAR: dict[BundleKind, str] = {"runs": "run", "adapters": "adapter"}


class Bundle:
    """An immutable folder of files in a store.

    Attributes:
        name: Its name.
        attrs: Small facts given when it was added.
        parents: What it stands on, as `kind/name`.
        files: File -> bytes.
        commit: Number of the commit that added it.
        time: When, ISO 8601 UTC.
    """

    def __init__(self, storage: Storage, placed: Placed) -> None:
        self._storage = storage
        self.entry = placed.entry
        self.name = placed.entry.name
        self.attrs: dict[str, Any] = dict(placed.entry.attrs)
        self.parents = placed.entry.parents
        self.files: dict[str, int] = {f: int(facts["size"]) for f, facts in placed.entry.files.items()}
        self.commit, self.time = placed.commit, placed.time

    def __repr__(self) -> str:
        return f"Bundle({self.entry.ref!r}, {len(self.files)} files, {self.entry.size:,} bytes)"

    def read(self, file: str) -> bytes:
        """Return a file's bytes.

        Raises:
            UnknownName: There is no such file in the bundle.
            Damaged: It is missing in the store, or its bytes are not those that were added.
        """
        name = self._name(file)
        try:
            data = self._storage.read(name)
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing", "restore it from a copy") from error
        if hashlib.sha256(data).hexdigest() != self.entry.files[file]["sha256"]:
            raise Damaged(f"{name} is damaged: its checksum does not match", "restore it from a copy")
        return data

    def json(self, file: str) -> Any:
        """Return what a JSON file holds."""
        return json.loads(self.read(file))

    def path(self, file: str) -> Path:
        """Return a local path of a file: the store's own, or a copy that lives as long as this process."""
        name = self._name(file)
        if self._storage.local is not None:
            return self._storage.local / name
        digest = hashlib.sha256(f"{self._storage.url}/{self.entry.path}".encode()).hexdigest()
        copy = _copies() / digest / file
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
            partial.write_bytes(self.read(file))
            partial.replace(copy)  # whole or not at all, for other threads
        return copy

    def _name(self, file: str) -> str:
        if file not in self.files:
            raise UnknownName(f"file in {self.entry.ref}", file, self.files)
        return f"{self.entry.path}/{file}"


class Bundles(Mapping[str, Bundle]):
    """The runs, or the adapters, of a store by name."""

    def __init__(self, store: "Store", kind: BundleKind) -> None:
        self._store = store
        self.kind = kind

    def __getitem__(self, name: str) -> Bundle:
        """Return a bundle; UnknownName when there is none."""
        entries = self._store.snapshot.entries(self.kind, name)
        if not entries:
            raise UnknownName(SINGULAR[self.kind], name, self)
        return Bundle(self._store.storage, self._store.snapshot.placed(entries[0].path))

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.snapshot.names(self.kind))

    def __len__(self) -> int:
        return len(self._store.snapshot.names(self.kind))

    def __contains__(self, name: object) -> bool:
        return name in self._store.snapshot.names(self.kind)

    def __repr__(self) -> str:
        return f"{self.kind}: {', '.join(self) or 'none'}"

    def free_name(self, stem: str) -> str:
        """Return `stem-N` with the smallest N behind all there are; `add_numbered` holds it against races."""
        return _free_name(self._store.journal.snapshot(), self.kind, stem)

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        parents: tuple[str, ...] = (),
        attrs: Mapping[str, Any] | None = None,
        command: str = "",
        message: str = "",
    ) -> Bundle:
        """Add a bundle in one commit.

        Args:
            name: Its name.
            files: Relative posix name -> bytes, or a local file that is copied.
            parents: What it stands on, as `kind/name`.
            attrs: Small facts as plain JSON.
            command: For the log.
            message: For the log.

        Raises:
            NameTaken: There is one of that name.
            UnknownName: A parent is not in the store.
            BadName: The name, or a file's, is not safe.
        """
        check_name(name, SINGULAR[self.kind])
        self._check_free(self._store.journal.snapshot(), name)  # before any byte is copied
        return self._add(name, lambda _: name, files, parents, attrs, command, message)

    def add_numbered(
        self,
        stem: str,
        files: Mapping[str, bytes | Path],
        *,
        parents: tuple[str, ...] = (),
        attrs: Mapping[str, Any] | None = None,
        command: str = "",
        message: str = "",
    ) -> Bundle:
        """Add a bundle as `stem-N`, N chosen as the commit is made: writers at once get different ones."""
        check_name(f"{stem}-1", SINGULAR[self.kind])
        return self._add(
            stem, lambda now: _free_name(now, self.kind, stem), files, parents, attrs, command, message
        )

    def _add(
        self,
        folder: str,
        naming: Callable[[Snapshot], str],
        files: Mapping[str, bytes | Path],
        parents: tuple[str, ...],
        attrs: Mapping[str, Any] | None,
        command: str,
        message: str,
    ) -> Bundle:
        path, before = fresh(f"{self.kind}/{folder}"), self._store.commit
        entry = Entry(
            kind=self.kind,
            name=folder,
            path=path,
            backend="files",
            attrs=dict(attrs or {}),
            files=_publish(self._store.storage, files, path),
            parents=parents,
        )

        def build(now: Snapshot) -> Change:
            nonlocal entry
            entry = replace(entry, name=naming(now))
            self._check_free(now, entry.name)
            now.check_parents(parents)
            return Change(add=(entry,))

        try:
            self._store.write(build, command=command, message=message)
        except BaseException:
            discard(self._store, [entry], before, failed=True)
            raise
        return self[entry.name]

    def _check_free(self, now: Snapshot, name: str) -> None:
        if now.has(f"{self.kind}/{name}"):
            raise NameTaken(
                f"there is {SINGULAR[self.kind]} {name!r} already, and it never changes",
                f"name it otherwise, for example {_free_name(now, self.kind, name)!r}",
            )


@functools.cache
def _copies() -> Path:
    """Return this process's folder for copies of remote files."""
    folder = Path(tempfile.mkdtemp(prefix="mer-fs-"))
    atexit.register(_remove_copies, folder, os.getpid())
    return folder


def _remove_copies(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves its parent's copies alone
        shutil.rmtree(folder, ignore_errors=True)


def _free_name(now: Snapshot, kind: BundleKind, stem: str) -> str:
    pattern = re.compile(re.escape(stem) + r"-([1-9][0-9]*)", re.ASCII)
    taken = [int(match[1]) for name in now.names(kind) if (match := pattern.fullmatch(name))]
    return f"{stem}-{max(taken, default=0) + 1}"


def _publish(storage: Storage, files: Mapping[str, bytes | Path], path: str) -> dict[str, dict[str, Any]]:
    """Copy files into the store under `path`; return their sizes and checksums."""
    facts: dict[str, dict[str, Any]] = {}
    with storage.staging() as folder, explained(storage.url):
        whole = folder / "bundle"
        whole.mkdir()
        for file, source in files.items():
            target = whole / check_relative(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                target.write_bytes(source)
            else:
                shutil.copyfile(source, target)
            with target.open("rb") as copied:
                digest = hashlib.file_digest(copied, "sha256").hexdigest()
            facts[file] = {"size": target.stat().st_size, "sha256": digest}
        storage.flush(whole)
        storage.upload(whole, path)
    return facts
