"""Checksums of files: what a commit records of them, and whether they still fit it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import RESTORE, Damaged

if TYPE_CHECKING:
    from mer_featurestore.commits import Entry
    from mer_featurestore.storage import Storage

BLOCK = 1 << 22  # bytes read at once
SINGLE_FILE = ""  # how `Entry.files` names the file of a group that is one file


def checksums(local: Path) -> dict[str, dict[str, Any]]:
    """Return size and CRC-32C (8 hex digits) of a file, or of every file below a folder, by relative path."""
    if local.is_file():
        return {SINGLE_FILE: _facts(local)}
    files = sorted(p for p in local.rglob("*") if p.is_file())
    return {p.relative_to(local).as_posix(): _facts(p) for p in files}


def fault(storage: "Storage", name: str, facts: Mapping[str, Any]) -> str:
    """Read a file and say what is wrong with it, `""` when nothing is.

    Args:
        storage: Where it lies.
        name: Its name there.
        facts: Its `size`, and its `crc32c` (groups) or `sha256` (files of bundles).
    """
    algorithm = "sha256" if "sha256" in facts else "crc32c"
    try:
        fits = _digest(algorithm, _blocks(storage, name, int(facts["size"]))) == facts[algorithm]
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if fits else "is damaged: its checksum does not match"


def verify_files(storage: "Storage", entry: "Entry") -> None:
    """Read every file of an entry and compare it with what was committed.

    Raises:
        Damaged: A file is missing or not what was written; the message names it.
    """
    for name, facts in zip(entry.file_names(), entry.files.values(), strict=True):
        wrong = fault(storage, name, facts)
        if wrong:
            raise Damaged(f"{name} {wrong}", RESTORE)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = _digest("crc32c", iter(lambda: file.read(BLOCK), b""))
    return {"size": path.stat().st_size, "crc32c": digest}


def _digest(algorithm: str, blocks: Iterable[bytes]) -> str:
    """Return a digest in hex."""
    if algorithm == "sha256":
        sha256 = hashlib.sha256()
        for block in blocks:
            sha256.update(block)
        return sha256.hexdigest()
    import google_crc32c

    crc = 0
    for block in blocks:
        crc = google_crc32c.extend(crc, block)
    return f"{crc:08x}"


def _blocks(storage: "Storage", name: str, size: int) -> Iterator[bytes]:
    for start in range(0, size + 1, BLOCK):  # one byte further, as a longer file is not what was written
        yield storage.read(name, start, BLOCK)
