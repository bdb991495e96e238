"""Broken files and full disks: a clear error that names the file, and nothing else is touched."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.checksums import verify_files
from mer_featurestore.errors import Damaged, UnknownKey
from mer_featurestore.groups import BACKENDS
from mer_featurestore.maintenance import verify
from support.features import Clips, fill, make_clips, make_spec, write

FILES = {
    "zarr": [
        "zarr.json",
        "data/zarr.json",
        "data/c/0/0",
        "offsets/c/0",
        "keys/c/0",
        "key_hashes/c/0",
        "key_order/zarr.json",
    ],
    "hdf5": [""],
}
CASES = [(backend, file) for backend in BACKENDS for file in FILES[backend]]


def broken(tmp_path: Path, backend: str, file: str) -> tuple[Store, Clips, str, Path]:
    """Return a store of a space of two fragments and a sound space, the clips, and a file of the second."""
    store, clips = fill(tmp_path / "s", make_spec(), parts=2, store_backend=backend)
    write(store, make_spec("y-UTT"), make_clips(3, make_spec("y-UTT")))
    entry = store.snapshot.entries("features", "x-FRA")[1]
    name = f"{entry.path}/{file}" if file else entry.path
    return Store.open(tmp_path / "s"), clips, name, store.storage.path(name)


@pytest.mark.parametrize(("backend", "file"), CASES)
@pytest.mark.parametrize("harm", ["deleted", "cut"])
def test_a_deleted_or_cut_file_is_named(tmp_path: Path, backend: str, file: str, harm: str) -> None:
    """Reading what needs the file raises Damaged with its name; other spaces read on."""
    store, clips, name, path = broken(tmp_path, backend, file)
    data = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(data[: len(data) // 3])
    with pytest.raises(Damaged, match=name if harm == "deleted" else name.rsplit("/c/")[0]):
        store.features["x-FRA"].read(list(clips))
    assert len(store.features["y-UTT"].matrix()) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_cut_after_they_were_opened(tmp_path: Path, backend: str) -> None:
    """A file that shrinks under an open space is damage too, not old bytes or zeros."""
    store, clips, name, path = broken(tmp_path, backend, "data/c/0/0" if backend == "zarr" else "")
    space = store.features["x-FRA"]
    space.read(list(clips))
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(Damaged, match=name):
        space.read(list(clips))
    np.testing.assert_array_equal(space["clip/00003"], clips["clip/00003"])


@pytest.mark.parametrize(("backend", "file"), CASES)
def test_a_flipped_bit_does_not_pass_verification(tmp_path: Path, backend: str, file: str) -> None:
    """One bit in any file is found by its checksum, and the file is named."""
    store, _, name, path = broken(tmp_path, backend, file)
    first, second = store.snapshot.entries("features", "x-FRA")
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)
    verify_files(store.storage, first)
    with pytest.raises(Damaged, match=f"{name} is damaged"):
        verify_files(store.storage, second)


@pytest.mark.parametrize(("backend", "file"), CASES)
def test_whatever_bit_is_flipped_reading_says_so_or_reads_on(tmp_path: Path, backend: str, file: str) -> None:
    """A reader meets an error that is meant for people, or wrong bytes, but never one of Python's own."""
    store, clips, _, path = broken(tmp_path, backend, file)
    data, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        harmed = bytearray(data)
        harmed[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(harmed)
        with contextlib.suppress(Damaged, UnknownKey):
            assert len(Store.open(store.url).features["x-FRA"].read(list(clips))) == len(clips)


@pytest.mark.parametrize("array", ["offsets", "keys", "key_offsets", "key_hashes", "key_order"])
def test_columns_that_contradict_each_other_are_found(tmp_path: Path, array: str) -> None:
    """A fragment whose arrays are whole but wrong fails its check."""
    store, *_ = broken(tmp_path, "zarr", "")
    fragment = store.features["x-FRA"].fragments[1]
    fragment.check()
    path = store.storage.path(f"{fragment.entry.path}/{array}/c/0")
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[[16, 17, 18]] ^= 3
    path.write_bytes(data.tobytes())
    with pytest.raises(Damaged, match=fragment.entry.path):
        type(fragment)(store.storage, fragment.entry).check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_has_grown_does_not_pass_verification(tmp_path: Path, backend: str) -> None:
    """Bytes behind those that were written are found too."""
    store, _, name, path = broken(tmp_path, backend, "data/c/0/0" if backend == "zarr" else "")
    entry = store.snapshot.entries("features", "x-FRA")[1]
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(Damaged, match=f"{name} is damaged"):
        verify_files(store.storage, entry)
    assert [(p.kind, p.where) for p in verify(store).problems] == [("size", name)]


def test_a_file_the_disk_cannot_read_is_one_problem_of_many(tmp_path: Path, monkeypatch: Any) -> None:
    """Verification names it, with what the system says, and goes on with the others."""
    store, _, name, _ = broken(tmp_path, "hdf5", "")
    read = store.storage.read

    def unreadable(file: str, *part: Any) -> bytes:
        if file == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, *part)

    monkeypatch.setattr(store.storage, "read", unreadable)
    found = verify(store)
    assert [(p.kind, p.where) for p in found.problems] == [("checksum", name)]
    assert "cannot be read: Input/output error" in found.problems[0].message
    assert found.files == 3


FULL = """
import resource, signal, sys
import numpy as np
from mer_featurestore import Store
from support.features import make_clips, make_spec, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, spec = Store.open(sys.argv[1]), make_spec(row_shape=(1024,), dtype="float32")
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    write(store, spec, make_clips(100, spec, first=500), codec=sys.argv[2] or None)
except Exception as error:
    print(type(error).__name__, error)
print(Store.open(sys.argv[1]).features["x-FRA"].keys() == ["a"])
"""


@pytest.mark.parametrize(
    ("backend", "codec"), [("zarr", ""), ("zarr", "zstd"), ("hdf5", ""), ("hdf5", "gzip")]
)
def test_a_full_disk(tmp_path: Path, backend: str, codec: str) -> None:
    """The commit fails with what to do, the process lives, what was stored is as before, without scraps."""
    store = Store.create(tmp_path / "s", backend=backend)
    write(store, make_spec(row_shape=(1024,), dtype="float32"), {"a": np.ones((2, 1024))})
    before = store.storage.list()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(tmp_path / "s"), codec],
        capture_output=True,
        check=False,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "StoreError" in done.stdout
    assert "File too large; free some space" in done.stdout
    assert done.stdout.endswith("True\n")
    assert store.storage.list() == before
