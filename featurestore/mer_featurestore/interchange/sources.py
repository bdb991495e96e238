"""Features as they lie outside the store: what an importer hands over, and the plain numpy formats."""

import contextlib
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.content import file_hash, hash_files
from mer_featurestore.errors import BadInput, MerError
from mer_featurestore.records import Level, Progress

Items = Iterator[tuple[str, "NDArray[Any] | BadInput"]]
"""Key and array, or key and why there is none."""


@dataclass(frozen=True)
class Source:
    """Features of one kind, one array per key.

    Attributes:
        format: Name of the format.
        path: Where they lie.
        keys: All clips, in the source's order.
        level: `utt` or `frame`.
        row_shape: Shape of one row.
        dtype: Type of the numbers as they lie.
        items: Called with the wanted keys; yields them with their arrays, in the source's order.
        content: SHA-256 (hex) over what was read.
        facts: What else decides the values, as JSON.
    """

    format: str
    path: Path
    keys: tuple[str, ...]
    level: Level
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    items: Callable[[Container[str]], Items] = field(repr=False)
    content: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def made_by(self) -> dict[str, Any]:
        """Return where the features come from, for `SpaceSpec.made_by`."""
        return {
            "imported": {
                "format": self.format,
                "source": self.path.name,
                "sha256": self.content,
                "dtype": str(self.dtype),
                **self.facts,
            }
        }


@contextlib.contextmanager
def readable(what: str, problem: str = "cannot be read", remedy: str = "check the file") -> Iterator[None]:
    """Turn what libraries raise for a damaged file into BadInput: `<what> <problem>: <why>`."""
    try:
        yield
    except MerError:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {error.filename or what}", "check the path") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything for bytes that do not decode
        raise BadInput(f"{what} {problem}: {error}", remedy) from None


def make_source(
    form: str,
    path: Path,
    keys: Sequence[str],
    items: Callable[[Container[str]], Items],
    *,
    level: Level | None,
    content: str,
    facts: Mapping[str, Any] | None = None,
) -> Source:
    """Return a source, with level, row shape and type as its first usable array has them.

    Args:
        form: Name of the format.
        path: Where it lies.
        keys: All clips.
        items: See `Source`.
        level: `utt` or `frame`; None for `frame` when arrays have two axes or more, else `utt`.
        content: SHA-256 of the content.
        facts: What else decides the values.

    Raises:
        BadInput: There are no clips, a clip twice, or no array of numbers.
    """
    if not keys:
        raise BadInput(f"{path} holds no features", "check the path and the format")
    check_unique(path, keys)
    first = next((a for _, a in items(frozenset(keys)) if not isinstance(a, BadInput) and a.size), None)
    if first is None:
        raise BadInput(
            f"{path} holds no array of numbers with anything in it", "check the path and the format"
        )
    found: Level = level or ("frame" if first.ndim > 1 else "utt")
    drop_first = found == "frame" or (first.ndim > 1 and len(first) == 1)
    row = first.shape[1:] if drop_first and first.ndim > 1 else first.shape
    if not row:
        raise BadInput(
            f"{path}: clip {keys[0]!r} is a single number", "features are vectors [D] or rows [T, D]"
        )
    return Source(form, path, tuple(keys), found, row, first.dtype, items, content, facts or {})


def check_unique(path: Path, keys: Sequence[str]) -> None:
    """Raise BadInput for a key that occurs twice."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise BadInput(f"{path}: clip {key!r} occurs twice", "every clip must have one array")
        seen.add(key)


def fit(array: NDArray[Any], level: Level, row_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array as a writer takes it: a lone row of a frame-level space becomes `[1, *row_shape]`."""
    if level == "frame" and array.shape == row_shape:
        return array[None]
    if level == "frame" and array.size == 0:
        return array.reshape(0, *row_shape)
    return array


def numbers(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return an array of numbers; BadInput for anything else."""
    if array.dtype.kind not in "fiu":
        raise BadInput(f"{where} is of type {array.dtype}", "features are numbers")
    return array


def load_npy(path: Path) -> NDArray[Any]:
    """Read a .npy file, without pickles.

    Raises:
        BadInput: It is missing, damaged, or holds objects.
    """
    with readable(str(path)):
        return np.asarray(np.load(path, allow_pickle=False))


def from_npy(path: Path, keys: Sequence[str], *, level: Level | None = None) -> Source:
    """Open one .npy matrix `[N, D]` or `[N, T, D]` whose rows belong to these keys, in this order.

    Raises:
        BadInput: The file is not readable, or has another number of rows than there are keys.
    """
    data = numbers(load_npy(path), str(path))
    if data.ndim < 2 or len(data) != len(keys):
        raise BadInput(
            f"{path} has shape {data.shape} and there are {len(keys)} keys", "give one key per row, [N, D]"
        )

    def items(wanted: Container[str]) -> Items:
        return ((key, row) for key, row in zip(keys, data, strict=True) if key in wanted)

    return make_source("npy", path, keys, items, level=level, content=file_hash(path))


def from_npz(path: Path, *, level: Level | None = None) -> Source:
    """Open an .npz: one array per key, or `keys`, `data` and (for frames) `offsets` as our export does.

    Raises:
        BadInput: The file is not readable, or an array holds objects.
    """
    with _opened(path) as archive:
        if {"keys", "data"} <= set(archive.files):
            return _packed(path, archive, level)
        keys = tuple(archive.files)

    def items(wanted: Container[str]) -> Items:
        with _opened(path) as archive:
            for key in keys:
                if key in wanted:
                    yield key, _member(archive, key, path)

    return make_source("npz", path, keys, items, level=level, content=file_hash(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # numpy leaves a file open that it opened itself and finds to be no archive.
    with readable(str(path), "is not an .npz file"), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise BadInput(f"{path} is not an .npz file", "import a matrix with: mer-fs import npy")
        with archive:
            yield archive


def _packed(path: Path, archive: Any, level: Level | None) -> Source:
    keys = [str(key) for key in _need(_member(archive, "keys", path))]
    data = numbers(_need(_member(archive, "data", path)), f"{path}, array data")
    offsets = (
        _need(_member(archive, "offsets", path)) if "offsets" in archive.files else np.arange(len(keys) + 1)
    )
    whole = offsets.shape == (len(keys) + 1,) and offsets.dtype.kind in "iu"
    if not whole or (offsets[1:] < offsets[:-1]).any() or offsets[0] != 0 or offsets[-1] != len(data):
        raise BadInput(f"{path}: offsets do not fit {len(keys)} keys and {len(data)} rows", "export it again")

    def items(wanted: Container[str]) -> Items:
        for i, key in enumerate(keys):
            if key in wanted:
                yield key, data[offsets[i] : offsets[i + 1]]

    given: Level = level or ("frame" if "offsets" in archive.files else "utt")
    return make_source("npz", path, keys, items, level=given, content=file_hash(path))


def _member(archive: Any, name: str, path: Path) -> "NDArray[Any] | BadInput":
    try:
        with readable(f"{path}, array {name}", remedy="arrays of objects are not read"):
            return np.asarray(archive[name])
    except BadInput as error:
        return error


def _need(array: "NDArray[Any] | BadInput") -> NDArray[Any]:
    if isinstance(array, BadInput):
        raise array
    return array


def tree_hash(root: Path, files: Iterable[Path], progress: Progress | None = None) -> str:
    """Return one SHA-256 (hex) over many files: their paths below `root` and their contents."""
    digests = hash_files((str(file) for file in files), progress=progress)
    lines = sorted(f"{Path(file).relative_to(root).as_posix()}\t{digest}" for file, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[str]:
    """Read one key per line (UTF-8), blank lines left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}", "check the path") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8", "write one key per line, as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
