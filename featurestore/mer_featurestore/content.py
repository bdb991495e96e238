"""Content hashes: a clip is its bytes, not its file name; finds copies across corpora and years."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mer_featurestore.errors import BadInput
from mer_featurestore.records import Clip, Progress


def content_hash(media: Sequence[str], text: str | None) -> str:
    """Return the content hash of a clip: SHA-256 over its media's digests and its transcript.

    Args:
        media: SHA-256 (hex) of every media file of the clip, audio first; one file used twice counts once.
        text: Transcript; an empty one counts as none.

    Returns:
        64 hex digits, or "" for a clip with neither media nor words.
    """
    distinct = list(dict.fromkeys(media))
    if not distinct and not text:
        return ""
    digest = hashlib.sha256(b"mer-clip-1\n")
    for hexdigest in distinct:
        digest.update(f"media {hexdigest}\n".encode())
    if text:
        digest.update(b"text " + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_clips(
    clips: Sequence[Clip], *, threads: int | None = None, progress: Progress | None = None
) -> list[Clip]:
    """Return the clips with their content hashes, reading every media file once, in threads.

    A clip whose media are not there keeps an empty hash: its content is not known.

    Args:
        clips: The clips, media paths absolute.
        threads: How many files are read at once; None for one per core, 2 to 16.
        progress: Called after every file.

    Raises:
        BadInput: A media file exists and cannot be read.
    """
    digests = hash_files(
        {path for clip in clips for path in _media(clip)}, threads=threads, progress=progress
    )
    return [
        replace(clip, content_hash=content_hash([d for d in found if d is not None], clip.text))
        if None not in (found := [digests[path] for path in _media(clip)])
        else clip
        for clip in clips
    ]


def hash_files(
    paths: Iterable[str], *, threads: int | None = None, progress: Progress | None = None
) -> dict[str, str | None]:
    """Return SHA-256 (hex) of each file, None for one that does not exist."""
    ordered = sorted(set(paths))
    workers = threads or min(16, max(2, os.cpu_count() or 2))
    digests: dict[str, str | None] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        for path, digest in zip(ordered, pool.map(_hash_file, ordered), strict=True):
            digests[path] = digest
            if progress:
                progress(len(digests), len(ordered))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for files nobody wants any more
    return digests


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file; BadInput when it cannot be read."""
    digest = _hash_file(str(path))
    if digest is None:
        raise BadInput(f"no such file: {path}", "check the path")
    return digest


def duplicates(clips: Mapping[str, Clip]) -> list[list[Clip]]:
    """Return groups of clips that share their content, largest first; clips without a hash are left out."""
    groups: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips.values():
        if clip.content_hash:
            groups[clip.content_hash].append(clip)
    return sorted((g for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g[0].key))


def _media(clip: Clip) -> list[str]:
    return [path for path in (clip.audio, clip.video) if path is not None]


def _hash_file(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "check its permissions") from None
