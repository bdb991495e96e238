"""Uncompressed Zarr v3, written and located byte by byte: the layout is the specification's, and simple.

An uncompressed chunk is its rows in C order. A shard is its chunks one after another and an index: offset
and size of each chunk (little-endian uint64, all ones where a chunk lies beyond the array) and a CRC-32C.
Writing this directly is several times faster than through zarr-python's pipeline, which splits and copies
every chunk, and gives the same bytes; reading rows at computed offsets needs to know it anyway.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import RESTORE, Damaged
from mer_featurestore.groups import Blocks, Layout, need_files, pieces_of, row_bytes, write_all

METADATA = "zarr.json"
CHUNK_BYTES, STEP_BYTES = 1 << 19, 1 << 26
# The kernel keeps the beginning of a file it reads in small pages, which slows every read after that by a
# fifth, so shards are large. A compressed shard is made in memory, so that is one step.
SHARD_STEPS = 4
NOWHERE = np.uint64(0xFFFFFFFFFFFFFFFF)
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BYTES = {"name": "bytes"}  # types of one byte have no order

ReadRange = Callable[[str, int, int], bytes]


def chunking(shape: tuple[int, ...], dtype: np.dtype[Any], most: int) -> tuple[int, int, int]:
    """Return the rows of a chunk, of what is written at a time, and of a shard of up to `most` times that."""
    one = max(1, row_bytes(shape, dtype))
    chunk = max(1, CHUNK_BYTES // one)
    if shape[0] <= chunk:
        return (max(1, shape[0]),) * 3
    step = min(chunk * max(1, STEP_BYTES // (one * chunk)), -(-shape[0] // chunk) * chunk)
    return chunk, step, step * min(most, -(-shape[0] // step))


def write_json(folder: Path, document: Mapping[str, Any]) -> None:
    """Write a node's metadata; ValueError for what JSON cannot hold."""
    folder.mkdir()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METADATA).write_text(text, encoding="utf-8")


def write_array(folder: Path, array: "NDArray[Any] | Blocks") -> None:
    """Write an array as a new folder."""
    dtype = np.dtype(array.dtype).newbyteorder("<")
    chunk, step, shard = chunking(array.shape, dtype, SHARD_STEPS)
    write_json(folder, _metadata(array.shape, dtype, chunk, shard))
    one = row_bytes(array.shape, dtype)
    if not one:
        return
    for start, piece in pieces_of(array, step):
        first, end = start // shard * shard, start + len(piece)
        path = folder.joinpath("c", str(start // shard), *["0"] * (len(array.shape) - 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb" if start == first else "ab", buffering=0) as file:
            write_all(file, np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8).data)
            if shard > chunk and end in (first + shard, array.shape[0]):
                full = -(-(end - first) // chunk)
                write_all(file, memoryview(bytes((first + full * chunk - end) * one)))
                write_all(file, memoryview(_index(full, shard // chunk, chunk * one)))


def read_index(read: ReadRange, file: str, size: int, chunks: int) -> NDArray[np.uint64]:
    """Return `[chunks, 2]` (offset, bytes) from the end of a shard.

    Raises:
        Damaged: The shard is too short, or the index does not have its checksum.
    """
    import google_crc32c

    length = 16 * chunks + 4
    data = read(file, max(0, size - length), length)
    if len(data) < length or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Damaged(f"{file} is truncated or its index is damaged", RESTORE)
    return np.frombuffer(data[:-4], "<u8").reshape(chunks, 2)


def locate(
    metadata: Mapping[str, Any], chunk_file: Callable[[int], str], sizes: Mapping[str, int], read: ReadRange
) -> Layout | None:
    """Return where an array's rows lie.

    Args:
        metadata: The array's `zarr.json`.
        chunk_file: Name of the file with a number along the first axis.
        sizes: The array's files and their bytes.
        read: Reads `(file, start, length)`.

    Returns:
        None when rows are not contiguous or not plain (compressed, other order of axes …).

    Raises:
        Damaged: A file is missing or has another size than it must have.
    """
    shape = tuple(metadata["shape"])
    one = row_bytes(shape, str(metadata["data_type"]))
    if not shape[0] or not one:
        return Layout.single("", 0, 0, one)
    chunks = _plain_chunks(metadata, shape)
    if chunks is None:
        return None
    per_chunk, per_file = chunks
    files = [chunk_file(i) for i in range(-(-shape[0] // per_file))]
    need_files(set(files) - set(sizes))
    if not _is_sharded(metadata):
        for file in files:
            if sizes[file] != per_file * one:
                raise Damaged(f"{file} has {sizes[file]} bytes instead of {per_file * one}", RESTORE)
        starts = [min(i * per_file, shape[0]) for i in range(len(files) + 1)]
        return Layout(tuple(files), one, starts, list(range(len(files))), [0] * len(files))
    offsets, owners = _chunk_offsets(files, sizes, read, (shape[0], per_file, per_chunk), one)
    return _joined(files, one, shape[0], per_chunk, owners, offsets)


def check(metadata: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError, TypeError, IndexError or AttributeError for what cannot be an array's."""
    shape = tuple(metadata["shape"])
    row_bytes(shape, str(metadata["data_type"]))
    _plain_chunks(metadata, shape)
    if not shape or min(shape) < 0 or inner_rows(metadata) < 1:
        raise ValueError(f"shape {shape}")


def inner_rows(metadata: Mapping[str, Any]) -> int:
    """Return the rows that are decoded together."""
    grid = metadata["codecs"][0] if _is_sharded(metadata) else metadata["chunk_grid"]
    return int(grid["configuration"]["chunk_shape"][0])


def _metadata(shape: tuple[int, ...], dtype: np.dtype[Any], chunk: int, shard: int) -> dict[str, Any]:
    plain = LITTLE if dtype.itemsize > 1 else BYTES
    rest = [max(1, n) for n in shape[1:]]
    sharding = {
        "chunk_shape": [chunk, *rest],
        "codecs": [plain],
        "index_codecs": [LITTLE, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *rest]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": dtype.type(0).item(),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}] if shard > chunk else [plain],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _index(present: int, chunks: int, chunk_bytes: int) -> bytes:
    import google_crc32c

    index = np.full((chunks, 2), NOWHERE, "<u8")
    index[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:present, 1] = chunk_bytes
    data = index.tobytes()
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def _is_sharded(metadata: Mapping[str, Any]) -> bool:
    codecs = metadata["codecs"]
    return len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed"


def _plain_chunks(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return rows of a chunk and of a file when every chunk is whole rows in plain bytes, else None."""
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    separator = encoding.get("configuration", {}).get("separator", "/")
    if grid["name"] != "regular" or (encoding["name"], separator) != ("default", "/"):
        return None
    per_file, *rest = grid["configuration"]["chunk_shape"]
    if tuple(rest) != shape[1:]:
        return None
    if not _is_sharded(metadata):
        return (per_file, per_file) if _is_plain(metadata["codecs"]) else None
    settings = metadata["codecs"][0]["configuration"]
    per_chunk, *rest = settings["chunk_shape"]
    fine = (
        tuple(rest) == shape[1:]
        and _is_plain(settings["codecs"])
        and settings["index_codecs"] == [LITTLE, {"name": "crc32c"}]
        and settings["index_location"] == "end"
    )
    return (per_chunk, per_file) if fine else None


def _is_plain(codecs: Sequence[Any]) -> bool:
    return list(codecs) in ([LITTLE], [BYTES]) and sys.byteorder == "little"


def _chunk_offsets(
    files: Sequence[str], sizes: Mapping[str, int], read: ReadRange, rows: tuple[int, int, int], one: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the offset of every chunk in its shard, and the number of the shard."""
    total, per_file, per_chunk = rows
    offsets, owners = [], []
    for i, file in enumerate(files):
        present = -(-min(per_file, total - i * per_file) // per_chunk)
        index = read_index(read, file, sizes[file], per_file // per_chunk)[:present]
        whole = (index[:, 0] != NOWHERE) & (index[:, 1] == per_chunk * one)
        if not whole.all() or int(index.sum(axis=1).max()) > sizes[file]:
            raise Damaged(f"{file} does not hold all its chunks", RESTORE)
        offsets.append(index[:, 0].astype(np.int64))
        owners.append(np.full(present, i, np.int64))
    return np.concatenate(offsets), np.concatenate(owners)


def _joined(
    files: Sequence[str],
    one: int,
    rows: int,
    per_chunk: int,
    owners: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> Layout:
    """Join chunks that follow each other in a file into runs."""
    follows = (owners[1:] == owners[:-1]) & (offsets[1:] == offsets[:-1] + per_chunk * one)
    first = np.flatnonzero(np.concatenate([[True], ~follows]))
    starts = [*(first * per_chunk).tolist(), rows]
    return Layout(tuple(files), one, starts, owners[first].tolist(), offsets[first].tolist())
