"""Bytes under relative posix names: a local folder here, S3-compatible storage in `storage_s3`."""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mer_featurestore.errors import StoreError
from mer_featurestore.names import check_relative

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems without them say
STAGING = "tmp"  # below the store, so that publishing is a rename; swept by gc


class Storage(ABC):
    """Files below one place. Names are relative posix paths and can never leave it.

    Attributes:
        url: Where, for people; never holds credentials.
        local: The folder, or None when the bytes are not on this machine.
    """

    url: str
    local: Path | None = None

    @abstractmethod
    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start` (the whole file by default); FileNotFoundError."""

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return whole files in order, fetched at once where that pays; FileNotFoundError."""
        return [self.read(name) for name in names]

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Make a file, whole and durable, only when there is none of that name.

        Raises:
            FileExistsError: There is one; it is untouched.
            StoreError: No permission, or no space left.
        """

    def flush(self, source: Path) -> None:  # noqa: B027 - what is sent elsewhere need not last here
        """Make a file or folder written in `staging()` durable; to be called before `upload`."""

    @abstractmethod
    def upload(self, source: Path, name: str) -> None:
        """Publish a file or folder written in `staging()` and flushed, under a fresh name; consumes it."""

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return every file below the folder `prefix` whose name sorts behind `after`: name -> size."""

    @abstractmethod
    def modified(self, prefix: str = "") -> dict[str, float]:
        """Return every file below the folder `prefix`: name -> time of last change, seconds since 1970."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are passed over."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether there is a file of that name."""

    def tidy(self, prefix: str, before: float) -> None:  # noqa: B027 - object stores have no folders
        """Remove empty folders below `prefix` that have not changed since `before`."""

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty local folder to write in before `upload`; removed afterwards with what is left."""
        folder = Path(tempfile.mkdtemp(prefix="mer-fs-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class LocalStorage(Storage):
    """A folder on this machine (or mounted on it) whose file system has hard links and atomic renames."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.local = self.folder
        self.url = str(folder)

    def path(self, name: str) -> Path:
        """Return where a name lies; BadName when it would leave the folder."""
        return self.folder / check_relative(name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes of a file; FileNotFoundError."""
        with explained(self.url), self.path(name).open("rb") as file:
            if start:
                file.seek(start)
            return file.read() if length is None else file.read(length)

    def create(self, name: str, data: bytes) -> None:
        """Write a temporary file, flush it, and link it to its name, which fails when the name is taken."""
        path = self.path(name)
        with explained(self.url):
            temporary = self._staging_folder() / secrets.token_hex(8)
            try:
                write_durably(temporary, data)
                _into_folder(path.parent, lambda: _link(temporary, path))
            finally:
                temporary.unlink(missing_ok=True)

    def flush(self, source: Path) -> None:
        """Flush a file, or every file and folder below a folder."""
        with explained(self.url):
            sync_tree(source)

    def upload(self, source: Path, name: str) -> None:
        """Rename the whole to its name."""
        path = self.path(name)
        with explained(self.url):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            _into_folder(path.parent, lambda: source.rename(path))

    def list(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return name -> size of every file below."""
        found = {name: facts.st_size for name, facts in self._walk(prefix) if name > after}
        return dict(sorted(found.items()))

    def modified(self, prefix: str = "") -> dict[str, float]:
        """Return name -> time of last change of every file below."""
        return {name: facts.st_mtime for name, facts in self._walk(prefix)}

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and the folders that are empty afterwards."""
        with explained(self.url):
            for path in [self.path(name) for name in names]:
                path.unlink(missing_ok=True)
                self._prune(path.parent)

    def tidy(self, prefix: str, before: float) -> None:
        """Remove empty folders that a killed process left."""
        top = self.path(prefix)
        for folder, _, _ in os.walk(top, topdown=False):  # the inner ones first
            with contextlib.suppress(OSError):  # not empty, or gone already
                if Path(folder) != top and Path(folder).stat().st_mtime <= before:
                    Path(folder).rmdir()

    def exists(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        return self.path(name).is_file()

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a folder on the store's own file system, so that `upload` is a rename."""
        with explained(self.url):
            folder = Path(tempfile.mkdtemp(dir=self._staging_folder()))
            folder.chmod(0o777 & ~_umask())  # mkdtemp gives 0700, which others could not read once published
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _staging_folder(self) -> Path:
        folder = self.folder / STAGING
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        folders = [check_relative(prefix) + "/"] if prefix else [""]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.folder / folder))
            except FileNotFoundError:  # somebody sweeps or publishes
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}{entry.name}/")
                    continue
                with contextlib.suppress(FileNotFoundError):  # the same
                    yield folder + entry.name, entry.stat()

    def _prune(self, folder: Path) -> None:
        while folder not in (self.folder, self.folder / STAGING):
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone already
                return
            folder = folder.parent


def open_storage(url: str | Path) -> Storage:
    """Open a local folder, `file://…` or `s3://bucket/prefix`; nothing is made or checked yet.

    Raises:
        StoreError: The scheme is not one of these, or the S3 library is not installed.
    """
    text = str(url)
    if text.startswith("s3://"):
        from mer_featurestore.storage_s3 import S3Storage

        return S3Storage.open(text)
    scheme, mark, _ = text.partition("://")
    if mark and scheme != "file":
        raise StoreError(f"{scheme}:// is no storage known here", "use a folder or s3://bucket/prefix")
    return LocalStorage(Path(text.removeprefix("file://")).expanduser())


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush a file, or every file and folder below a folder.

    Several at once: a journaling file system then writes its journal once for many of them.
    """
    paths = [path, *path.rglob("*")]
    if len(paths) < 3:
        for each in paths:
            sync_folder(each)  # opening for reading and fsync is the same for a file
        return
    with ThreadPoolExecutor(min(8, len(paths))) as pool:
        list(pool.map(sync_folder, paths))


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn "permission denied" and "no space left" into a StoreError that says where and what to do."""
    try:
        yield
    except OSError as error:
        place = error.filename or where
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"no permission for {place} in the store {where}: {error.strerror}",
                "give this user access, or use another --store",
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"cannot write {place} in the store {where}: {error.strerror}",
                "free some space and run again; what was committed is safe",
            ) from error
        raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_LINKS:
            raise StoreError(
                f"the file system of {target.parent} has no hard links, which commits need",
                "put the store on another disk (FAT and exFAT, as of USB sticks, have none)",
            ) from error
        raise


def _into_folder(folder: Path, put: Callable[[], object]) -> None:
    """Put something into a folder, durably; make the folder again when a sweep took it away while empty."""
    for last in (False, False, True):
        _make_folder(folder)
        try:
            put()
        except FileNotFoundError:
            if last:
                raise
        else:
            return sync_folder(folder)
    return None


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durable in the one above."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
