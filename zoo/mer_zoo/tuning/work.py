"""Where a tuning keeps what is not finished, so that one that was killed goes on where it was.

Checkpoints are large and change all the time, so they are no part of a store: they lie in a folder of this
machine's user, `~/.cache/mer-fs/tune/<store>/<adapter>` or `--work`, and go when the adapter is published.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from mer_featurestore import Store

CLIPS, DONE = "clips.json", "done"
_PLAN, _LOCK, _MAKING = "plan.json", "lock", "making"
_RECORDS = (_PLAN, CLIPS)
_PART = re.compile(r"fold-\d+|all|one|bundle")


def default_folder(store: "Store", name: str) -> Path:
    """Return the folder of an adapter that is being tuned for a store."""
    base = os.environ.get("XDG_CACHE_HOME")
    cache = Path(base) if base else Path.home() / ".cache"
    return cache / "mer-fs" / "tune" / hashlib.sha256(store.url.encode()).hexdigest()[:16] / name


class Work:
    """The folder of one tuning.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            ZooError: One is at work there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ZooError(
                    f"another process is tuning in {self.folder}", "wait for it, or choose another --as"
                ) from error
            yield

    def begin(self, plan: Mapping[str, Any], *, restart: bool = False) -> bool:
        """Put the plan on record, or see that it is the one on record; say whether anything is there already.

        Raises:
            ZooError: What is there was begun with another plan; the message shows the differences.
        """
        if restart:
            self._clear()
        begun = any(any(self.folder.glob(f"*/{what}")) for what in ("checkpoint-*", DONE))
        if not begun:
            self._clear()  # a plan nothing was done about binds nobody
        self.same(_PLAN, plan)
        return begun

    def same(self, file: str, document: Mapping[str, Any]) -> None:
        """Put a document on record, or see that it is the one on record.

        Raises:
            ZooError: It is not.
        """
        path, wanted = self.folder / file, json.loads(json.dumps(document))
        if path.exists():
            differing = list(_differences(json.loads(path.read_text("utf-8")), wanted))
            if differing:
                raise ZooError(
                    f"this adapter was begun otherwise: {'; '.join(differing[:5])}",
                    "go on with the same command on the same data, or begin anew with --restart",
                )
            return
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=1), "utf-8")
        partial.replace(path)

    def part(self, name: str) -> Path:
        """Return the folder of one part's checkpoints."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def done(self, name: str) -> Path | None:
        """Return the folder of a finished part's files; None when it is not finished."""
        folder = self.folder / name / DONE
        return folder if folder.is_dir() else None

    @contextmanager
    def finishing(self, name: str) -> Iterator[Path]:
        """Give a folder for a finished part's files; they count when all are written. Checkpoints then go."""
        making = self.part(name) / _MAKING
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        yield making
        making.rename(self.folder / name / DONE)
        for checkpoint in (self.folder / name).glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def remove(self) -> None:
        """Delete what was written here, and the folder if nothing else is in it."""
        self._clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _clear(self) -> None:
        for path in self.folder.iterdir():  # somebody may have named a folder with things of their own
            if path.is_dir() and _PART.fullmatch(path.name):
                shutil.rmtree(path)
            elif path.name in _RECORDS:
                path.unlink()


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
    elif old != new:
        yield f"{path} was {old!r} and is {new!r}"
