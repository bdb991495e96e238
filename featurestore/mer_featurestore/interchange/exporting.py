"""Feature spaces out of the store: MERTools folders, .npz, and Parquet that Hugging Face `datasets` loads."""

import contextlib
import itertools
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, BadName, UnknownName
from mer_featurestore.interchange.parquet import need_pyarrow
from mer_featurestore.records import Clip, Progress, Ragged

if TYPE_CHECKING:
    from mer_featurestore.spaces import FeatureSpace
    from mer_featurestore.store import Store

FORMATS = ("mertools", "npz", "parquet")
BATCH_BYTES = 64 << 20


def export_space(
    store: "Store",
    name: str,
    to: Path,
    form: str,
    *,
    keys: Sequence[str] | None = None,
    labels: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a space in another tool's format; memory stays bounded.

    - `mertools`: `TO/<space>/<key>.npy`, `[D]` or `[T, D]`.
    - `npz`: `TO/<space>.npz` with `keys`, `data [ΣT, D]` and, for frames, `offsets [n + 1]`; no pickles.
    - `parquet`: `TO/<space>/data/<split>-00000-of-00001.parquet` with `key`, `features` and what the
      catalogue knows; `datasets.load_dataset("TO/<space>")` gives the splits.

    What is written appears whole or not at all.

    Args:
        store: Where from.
        name: Of the space.
        to: Folder to write in.
        form: One of `FORMATS`.
        keys: Which clips; all in store order by default.
        labels: For `parquet`: a layer whose (resolved) labels go into a column `label`.
        progress: Called with (clips done, clips in all).

    Returns:
        What was written: the folder, or the files.

    Raises:
        UnknownName: No such space, format, layer or key.
        BadInput: The target is there already or cannot be written, or there is nothing to export.
        BadName: A key cannot be a file name (`mertools`).
    """
    if form not in FORMATS:
        raise UnknownName("format to export", form, FORMATS)
    space = store.features[name]
    keys = list(keys) if keys is not None else space.keys()
    if not keys:
        raise BadInput(f"there are no clips to export from {name}", "choose others")
    space.positions(keys)  # an unknown key is refused before anything is written
    report = progress or (lambda _done, _total: None)
    try:
        Path(to).mkdir(parents=True, exist_ok=True)
        with _appearing(Path(to) / (f"{name}.npz" if form == "npz" else name)) as (partial, path):
            if form == "mertools":
                _mertools(space, keys, partial, report)
            elif form == "npz":
                _npz(space, keys, partial, report)
            else:
                _parquet(store, space, keys, partial, labels, report)
        return sorted(path.rglob("*.parquet")) if form == "parquet" else [path]
    except OSError as error:
        raise BadInput(
            f"cannot write {error.filename or to}: {error.strerror}", "choose another place"
        ) from None


def batches(
    space: "FeatureSpace", keys: Sequence[str], size: int = BATCH_BYTES
) -> Iterator[tuple[list[str], Ragged]]:
    """Yield the clips of a space in batches of about `size` bytes, in the order of the keys."""
    row = int(np.prod(space.spec.row_shape)) * np.dtype(space.spec.dtype).itemsize
    ends = np.cumsum(space.lengths(keys)) * row // size
    cuts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(keys)]
    for start, stop in itertools.pairwise(cuts):
        some = list(keys[start:stop])
        yield some, space.read(some)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[tuple[Path, Path]]:
    """Give a place beside `path` to write at; what was written there gets its name at the end."""
    if path.exists():
        raise BadInput(f"{path} is there already", "remove it, or export to another folder")
    partial = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        yield partial, path
        partial.rename(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def _mertools(space: "FeatureSpace", keys: Sequence[str], folder: Path, report: Progress) -> None:
    names = {_file_name(key): key for key in keys}
    folder.mkdir()
    done = 0
    for some, packed in batches(space, list(names.values())):
        for key, rows in zip(some, (packed[i] for i in range(len(packed))), strict=True):
            np.save(
                folder / _file_name(key), rows[0] if space.spec.level == "utt" else rows, allow_pickle=False
            )
            done += 1
            report(done, len(names))


def _file_name(key: str) -> str:
    if "/" in key or "\\" in key or key.startswith(".") or len(key.encode()) > 250:
        raise BadName(
            f"key {key!r} cannot be a file name", "export to npz or parquet, which keep keys as data"
        )
    return f"{key}.npy"


def _npz(space: "FeatureSpace", keys: Sequence[str], path: Path, report: Progress) -> None:
    offsets = np.concatenate([[0], np.cumsum(space.lengths(keys))]).astype(np.int64)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _member(archive, "keys", np.array(keys))
        if space.spec.level == "frame":
            _member(archive, "offsets", offsets)
        with archive.open("data.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_2_0(file, _header(space, int(offsets[-1])))
            done = 0
            for some, packed in batches(space, keys):
                file.write(np.ascontiguousarray(packed.data).tobytes())
                done += len(some)
                report(done, len(keys))


def _member(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _header(space: "FeatureSpace", rows: int) -> dict[str, Any]:
    descr = np.lib.format.dtype_to_descr(np.dtype(space.spec.dtype))
    return {"descr": descr, "fortran_order": False, "shape": (rows, *space.spec.row_shape)}


def _parquet(
    store: "Store",
    space: "FeatureSpace",
    keys: Sequence[str],
    folder: Path,
    labels: str | None,
    report: Progress,
) -> None:
    parquet = need_pyarrow()
    label_of = store.labels.resolve(labels).get if labels is not None else None
    clips = {key: store.clips[key] if key in store.clips else Clip(key=key, split="train") for key in keys}
    splits: dict[str, list[str]] = {}
    for key in keys:
        splits.setdefault(_split_name(clips[key].split), []).append(key)
    (folder / "data").mkdir(parents=True)
    done = 0
    for split, members in splits.items():
        with contextlib.ExitStack() as closing:
            writer = None
            for some, packed in batches(space, members):
                table = _table([clips[key] for key in some], packed, space, label_of)
                if writer is None:
                    path = folder / "data" / f"{split}-00000-of-00001.parquet"
                    writer = closing.enter_context(parquet.ParquetWriter(path, table.schema))
                writer.write_table(table)
                done += len(some)
                report(done, len(keys))


def _split_name(split: str) -> str:
    """Return the split as `datasets` lets a split be named: letters, digits, underscores."""
    return re.sub(r"\W", "_", split) or "train"


def _table(
    clips: Sequence[Clip],
    packed: Ragged,
    space: "FeatureSpace",
    label_of: Callable[[str], str | None] | None,
) -> Any:
    import pyarrow as pa

    values = pa.array(np.ascontiguousarray(packed.data).reshape(-1))
    for size in reversed(space.spec.row_shape):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    if space.spec.level == "frame":
        values = pa.LargeListArray.from_arrays(pa.array(packed.offsets), values)
    columns: dict[str, Any] = {
        "key": pa.array([clip.key for clip in clips], pa.string()),
        "features": values,
        "split": pa.array([clip.split for clip in clips], pa.string()),
        "corpus": pa.array([clip.corpus for clip in clips], pa.string()),
        "speaker": pa.array([clip.speaker for clip in clips], pa.string()),
        "text": pa.array([clip.text for clip in clips], pa.string()),
    }
    if label_of is not None:
        columns["label"] = pa.array([label_of(clip.key) for clip in clips], pa.string())
    return pa.table(columns)


def views(space: "FeatureSpace", keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return key -> `[T, *row_shape]`, all views of one block that was read at once (no copy per clip).

    `torch.from_numpy(array)` shares the memory again. For one matrix of an utterance-level space use
    `space.matrix()`, for a padded batch `space.read_padded()`.
    """
    packed = space.read(keys)
    return {key: packed[i] for i, key in enumerate(keys)}
