"""S3-compatible storage through obstore; commits need its conditional put (`If-None-Match: *`).

Credentials, region and endpoint come from the standard environment and configuration (`AWS_ACCESS_KEY_ID`,
`AWS_REGION`, `AWS_ENDPOINT_URL_S3` …); none of them is stored or printed.
"""

import contextlib
import errno
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import BadName, StoreError
from mer_featurestore.names import check_relative
from mer_featurestore.storage import Storage

if TYPE_CHECKING:
    from obstore.store import S3Store

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
AT_ONCE = 16  # requests in flight


class S3Storage(Storage):
    """Objects below one prefix of a bucket. Make one with `S3Storage.open`."""

    def __init__(self, store: "S3Store", url: str) -> None:
        self._store = store
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        # The client itself would take the credentials along.
        return S3Storage.open, (self.url,)

    @classmethod
    def open(cls, url: str) -> "S3Storage":
        """Open `s3://bucket/prefix`; nothing is fetched yet.

        Raises:
            BadName: The URL has no bucket, or an unsafe prefix.
            StoreError: obstore is not installed, or the environment's settings do not make a client.
        """
        parts = urllib.parse.urlsplit(url)
        prefix = urllib.parse.unquote(parts.path).strip("/")
        if not parts.hostname or parts.username or parts.query or parts.fragment:
            raise BadName(f"s3://{parts.hostname or ''} is not a store's URL", "write s3://bucket/prefix")
        if prefix:
            check_relative(prefix)
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise StoreError("s3:// needs obstore", "pip install 'mer-fs[s3]'") from error
        shown = f"s3://{parts.hostname}/{prefix}".rstrip("/")
        with explained_s3(shown):
            settings: Any = _settings()
            store = S3Store(parts.hostname, prefix=prefix or None, **settings)
        return cls(store, shown)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object; FileNotFoundError."""
        import obstore
        from obstore.exceptions import GenericError

        check_relative(name)
        with explained_s3(self.url, name):
            if start == 0 and length is None:
                return bytes(obstore.get(self._store, name).bytes())
            if length is None:
                length = int(obstore.head(self._store, name)["size"]) - start
            if length <= 0:
                return b""
            try:
                return bytes(obstore.get_range(self._store, name, start=start, length=length))
            except GenericError:
                # Behind the end there are no bytes, as in a local file; S3 answers with an error instead.
                if int(obstore.head(self._store, name)["size"]) <= start:
                    return b""
                raise

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return whole objects in order, several requests at once."""
        if len(names) < 2:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def create(self, name: str, data: bytes) -> None:
        """Put an object with `If-None-Match: *`; FileExistsError when there is one."""
        import obstore

        with explained_s3(self.url, name):
            obstore.put(self._store, check_relative(name), data, mode="create", use_multipart=False)

    def upload(self, source: Path, name: str) -> None:
        """Put a file, or every file below a folder, several at once."""
        import obstore

        check_relative(name)
        files = {name: source}
        if source.is_dir():
            below = (path for path in source.rglob("*") if path.is_file())
            files = {f"{name}/{path.relative_to(source).as_posix()}": path for path in below}

        def put(item: tuple[str, Path]) -> None:
            obstore.put(self._store, item[0], item[1])

        with explained_s3(self.url), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(put, files.items()))

    def list(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return name -> size of every object below."""
        found = {meta["path"]: int(meta["size"]) for meta in self._objects(prefix, after)}
        return dict(sorted(found.items()))

    def modified(self, prefix: str = "") -> dict[str, float]:
        """Return name -> time of last change of every object below."""
        return {meta["path"]: meta["last_modified"].timestamp() for meta in self._objects(prefix, "")}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, several at once."""
        import obstore

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError), explained_s3(self.url, name):
                obstore.delete(self._store, name)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(remove, [check_relative(name) for name in names]))

    def exists(self, name: str) -> bool:
        """Say whether there is an object of that name."""
        import obstore

        try:
            with explained_s3(self.url, name):
                obstore.head(self._store, check_relative(name))
        except FileNotFoundError:
            return False
        return True

    def _objects(self, prefix: str, after: str) -> Iterator[Any]:
        import obstore

        if prefix:
            check_relative(prefix)
        with explained_s3(self.url):
            for batch in obstore.list(self._store, prefix or None, offset=after or None):
                yield from batch


_used = False
_forked_after_use = False


def _mark_used() -> None:
    global _used  # noqa: PLW0603 - the client's threads belong to the process, and so does this
    _used = True


def _after_fork() -> None:
    global _forked_after_use  # noqa: PLW0603 - as above
    _forked_after_use = _used


os.register_at_fork(after_in_child=_after_fork)


def _settings() -> dict[str, Any]:
    """Return the client's settings that obstore does not read from the environment by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings: dict[str, Any] = {
        "retry_config": {"max_retries": 6, "retry_timeout": timedelta(seconds=60)},
    }
    if endpoint:
        settings["endpoint"] = endpoint
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme == "http" and parts.hostname in LOOPBACK:
            settings["client_options"] = {"allow_http": True}
    provider = _profile()
    if provider is not None:
        settings["credential_provider"] = provider
    return settings


def _profile() -> Any:
    """Return what fetches a profile's credentials (keys, SSO, assumed roles), None when there is no need.

    obstore itself knows keys in the environment and the roles of containers and machines.
    """
    shared = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    named = os.environ.get("AWS_PROFILE")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (named or shared.is_file()):
        return None
    try:
        from boto3 import Session
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise StoreError(
            "reading credentials from an AWS profile needs boto3",
            "pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    try:
        return Boto3CredentialProvider(Session())
    except (Boto3Error, BotoCoreError, ValueError) as error:
        remedy = "check AWS_PROFILE and ~/.aws, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreError(f"no AWS credentials in profile {named or 'default'}", remedy) from error


@contextlib.contextmanager
def explained_s3(where: str, name: str = "") -> Iterator[None]:
    """Turn obstore's errors into FileNotFoundError, FileExistsError or a StoreError without secrets."""
    place = f"{where}/{name}"
    if _forked_after_use:
        raise StoreError(
            f"{where} was read before this process was forked, which the S3 client does not survive",
            "start processes with spawn, e.g. DataLoader(multiprocessing_context='spawn')",
        )
    _mark_used()
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    try:
        yield
    except (FileNotFoundError, NotFoundError) as error:
        if "NoSuchBucket" in str(error):  # S3's code, in the answer's body
            raise StoreError(
                f"the bucket of {where} does not exist", "make it, or correct its name"
            ) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from error
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StoreError(
            f"the S3 server refuses access to {where}",
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do",
        ) from error
    except BaseError as error:
        raise StoreError(f"S3 storage {where} failed: {_first_line(error)}", "try again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
