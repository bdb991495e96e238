"""The store as a person sees it: clips, features, labels, runs and adapters at one commit."""

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import Damaged, NameTaken, NotAStore, StoreError, UnknownName
from mer_featurestore.groups import BACKENDS
from mer_featurestore.journal import Change, Commit, Journal, Snapshot
from mer_featurestore.records import canonical_json
from mer_featurestore.storage import STAGING, LocalStorage, Storage, open_storage

if TYPE_CHECKING:
    from mer_featurestore.bundles import Bundles
    from mer_featurestore.catalogue import Clips
    from mer_featurestore.labels import Layers
    from mer_featurestore.spaces import Spaces

FORMAT = 1
HEADER = "store.json"


class Store:
    """A feature store, read at one commit; its own writes move it to the commit they made.

    Make one with `Store.create` or `Store.open`.

    Attributes:
        storage: Where the bytes are.
        journal: The commits.
        backend: Default format of new groups, `zarr` or `hdf5`.
        snapshot: The state that is read.
    """

    def __init__(self, storage: Storage, header: dict[str, Any], at: int | None) -> None:
        self.storage = storage
        self.journal = Journal(storage)
        self.backend: str = header["backend"]
        self.read_only = at is not None
        self.snapshot: Snapshot = self.journal.snapshot(at)

    @classmethod
    def create(cls, url: str | Path, *, backend: str = "zarr") -> "Store":
        """Make an empty store in a new or empty folder, or below `s3://bucket/prefix`.

        Raises:
            NameTaken: There is a store already.
            UnknownName: No such backend.
            StoreError: The folder holds something else or cannot be written, or the S3 server cannot create
                files atomically.
        """
        if backend not in BACKENDS:
            raise UnknownName("backend", backend, BACKENDS)
        storage = open_storage(url)
        _check_empty(storage)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        header = {"format": FORMAT, "backend": backend, "created": now, "id": secrets.token_hex(8)}
        try:
            storage.create(HEADER, canonical_json(header) + b"\n")
        except FileExistsError as error:
            raise _taken(storage) from error
        _check_conditional(storage)
        return cls(storage, header, None)

    @classmethod
    def open(cls, url: str | Path, *, at: int | None = None) -> "Store":
        """Open a store at its newest commit, or at commit `at` (then it cannot be written).

        Raises:
            NotAStore: There is none, or it is of a newer format.
            Damaged: A file that is needed to open it is not what was written.
            StoreError: There is no commit `at`.
        """
        storage = open_storage(url)
        return cls(storage, read_header(storage), at)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.storage.url

    @property
    def commit(self) -> int:
        """Number of the commit that is read."""
        return self.snapshot.number

    def refresh(self) -> None:
        """Move to the newest commit; a store opened with `at` stays where it is."""
        if not self.read_only:
            self.snapshot = self.journal.snapshot()

    def write(self, build: Callable[[Snapshot], Change], *, command: str = "", message: str = "") -> Snapshot:
        """Make one commit (see `Journal.commit`) and move to it.

        Raises:
            StoreError: The store was opened with `at`.
        """
        if self.read_only:
            raise StoreError(
                f"this is commit {self.commit} of {self.url}, which is past", "open it without --at"
            )
        self.snapshot = self.journal.commit(build, command=command, message=message)
        return self.snapshot

    def log(self, limit: int | None = None) -> Iterator[Commit]:
        """Yield the commits up to the one that is read, newest first."""
        return self.journal.log(limit, upto=self.commit)

    @cached_property
    def clips(self) -> "Clips":
        """The catalogue: key -> Clip."""
        from mer_featurestore.catalogue import Clips

        return Clips(self)

    @cached_property
    def features(self) -> "Spaces":
        """Feature spaces by name."""
        from mer_featurestore.spaces import Spaces

        return Spaces(self)

    @cached_property
    def labels(self) -> "Layers":
        """Label layers by name."""
        from mer_featurestore.labels import Layers

        return Layers(self)

    @cached_property
    def runs(self) -> "Bundles":
        """Training runs by name."""
        from mer_featurestore.bundles import Bundles

        return Bundles(self, "runs")

    @cached_property
    def adapters(self) -> "Bundles":
        """Fine-tuned adapters by name."""
        from mer_featurestore.bundles import Bundles

        return Bundles(self, "adapters")

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process (a spawned DataLoader worker) opens the same store at the same commit.
        return _reopen, (self.url, self.commit, self.read_only)

    def __repr__(self) -> str:
        lines = [f"Store({self.url!r}, commit {self.commit}, {self.backend})"]
        lines += [f"  clips     {len(self.clips)}"] if self.snapshot.names("clips") else []
        for kind in ("features", "labels", "runs", "adapters"):
            names = self.snapshot.names(kind)
            shown = ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "")
            lines += [f"  {kind:9s} {shown}"] if names else []
        return "\n".join(lines)


def read_header(storage: Storage) -> dict[str, Any]:
    """Return what `store.json` says.

    Raises:
        NotAStore: There is none, or a newer version wrote it.
        Damaged: It cannot be read.
    """
    try:
        data = storage.read(HEADER)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotAStore(
            f"there is no store at {storage.url}", f"make one with: mer-fs init --store {storage.url}"
        ) from error
    try:
        header: dict[str, Any] = json.loads(data)
        version = int(header["format"])
        header["backend"] = str(header["backend"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{HEADER} of {storage.url} is damaged", "restore it from a copy") from error
    if version > FORMAT:
        raise NotAStore(
            f"the store {storage.url} has format {version}; this version reads up to {FORMAT}",
            "upgrade mer-fs: pip install -U mer-fs",
        )
    return header


def _reopen(url: str, commit: int, read_only: bool) -> Store:
    store = Store.open(url, at=commit)
    store.read_only = read_only
    return store


def _check_empty(storage: Storage) -> None:
    if storage.exists(HEADER):
        raise _taken(storage)
    if not isinstance(storage, LocalStorage):
        return
    if storage.folder.exists() and not storage.folder.is_dir():
        raise StoreError(f"{storage.url} is a file", "name a new or empty folder")
    if storage.folder.is_dir() and any(child.name != STAGING for child in storage.folder.iterdir()):
        raise StoreError(f"the folder {storage.url} is not empty and no store", "name a new or empty folder")


def _check_conditional(storage: Storage) -> None:
    """Refuse a server that lets a second create of one name succeed: commits would overwrite each other."""
    if isinstance(storage, LocalStorage):
        return
    try:
        storage.create(HEADER, b"")
    except FileExistsError:
        return
    storage.delete([HEADER])
    raise StoreError(
        f"the server of {storage.url} ignores conditional puts (If-None-Match: *), which commits need",
        "use a server that honours them, or a local folder",
    )


def _taken(storage: Storage) -> NameTaken:
    return NameTaken(f"there is a store at {storage.url} already", "open it, or name another folder")
