"""Both backends pass the shipped conformance kit, and other programs read what they write."""

from pathlib import Path

import numpy as np
import pytest

from mer_featurestore.backends.hdf5 import Hdf5Backend
from mer_featurestore.backends.zarr import ZarrBackend
from mer_featurestore.backends.zarr_plain import CHUNK_BYTES, SHARD_STEPS, STEP_BYTES
from mer_featurestore.errors import UnknownName
from mer_featurestore.groups import find_backend
from mer_featurestore.storage import LocalStorage
from mer_featurestore.testing import DTYPES, BackendTests, numbers


class TestZarr(BackendTests):
    backend = ZarrBackend()


class TestHdf5(BackendTests):
    backend = Hdf5Backend()


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_zarr_python_reads_a_group(tmp_path: Path, dtype: str) -> None:
    """zarr-python sees arrays, attributes, chunks and shards, and the same values."""
    import zarr

    many = numbers((3 * CHUNK_BYTES // 100 // np.dtype(dtype).itemsize, 100), dtype)
    arrays = {"many": many, "few": many[:7], "flat": many[:, 0], "none": many[:0]}
    ZarrBackend().write(tmp_path / "g", arrays, {"x": [1, {"y": "ü"}]})
    group = zarr.open_group(tmp_path / "g", mode="r")
    assert dict(group.attrs) == {"x": [1, {"y": "ü"}]}
    assert sorted(group.array_keys()) == sorted(arrays)
    for name, array in arrays.items():
        assert group[name].dtype == array.dtype
        np.testing.assert_array_equal(group[name][:], array)
    assert group["many"].shards is not None
    assert group["few"].shards is None


@pytest.mark.parametrize("rows", [5, 500, 700, 4 * 256, 4 * 256 + 1, 7 * 256 - 1])
def test_our_zarr_files_are_zarr_pythons(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes we write without zarr-python are those it writes itself, metadata and shard index too."""
    import zarr

    from mer_featurestore.backends import zarr_plain

    monkeypatch.setattr(zarr_plain, "STEP_BYTES", 2 * CHUNK_BYTES)
    monkeypatch.setattr(zarr_plain, "SHARD_STEPS", 2)
    array = numbers((rows, 1024), "float16")
    ZarrBackend().write(tmp_path / "ours", {"a": array}, {"x": 1})
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.create_group(tmp_path / "theirs", zarr_format=3, attributes={"x": 1})
        chunk, _, shard = zarr_plain.chunking(array.shape, array.dtype, 2)
        group.create_array(
            "a",
            shape=array.shape,
            dtype=array.dtype,
            chunks=(chunk, 1024),
            shards=(shard, 1024) if shard > chunk else None,
            compressors=None,
            filters=None,
            fill_value=0,
        )[:] = array
    ours, theirs = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("ours", "theirs")
    )
    assert ours == theirs


def test_a_zarr_group_of_zarr_python_is_read(tmp_path: Path) -> None:
    """Arrays in any chunking and codec that zarr-python wrote are read, only not always by position."""
    import zarr

    array = numbers((500, 30), "float32")
    group = zarr.create_group(tmp_path / "folder" / "g.zarr")
    group.create_array("defaults", shape=array.shape, dtype="float32")[:] = array
    group.create_array("split", shape=array.shape, dtype="float32", chunks=(60, 7), compressors=None)[:] = (
        array
    )
    group.create_array("plain", shape=array.shape, dtype="float32", chunks=(60, 30), compressors=None)[:] = (
        array
    )
    opened = ZarrBackend().open(LocalStorage(tmp_path), "folder/g.zarr")
    assert opened.names == ("defaults", "plain", "split")
    for name in opened.names:
        np.testing.assert_array_equal(opened.read(name, 50, 130), array[50:130])
    assert [opened.extents(name) is not None for name in opened.names] == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_h5py_reads_a_group(tmp_path: Path, dtype: str) -> None:
    """h5py sees contiguous datasets with the same values, and attributes as JSON text."""
    import h5py

    array = numbers((300, 100), dtype)
    Hdf5Backend().write(tmp_path / "g.h5", {"a": array, "none": array[:0]}, {"x": [1]})
    with h5py.File(tmp_path / "g.h5") as file:
        assert file["a"].chunks is None
        assert file.attrs["x"] == "[1]"
        np.testing.assert_array_equal(file["a"][:], array)
        assert file["none"].shape == (0, 100)


def test_few_files(tmp_path: Path) -> None:
    """A Zarr array is one file per 256 MB, an HDF5 group one file."""
    array = np.zeros((SHARD_STEPS * STEP_BYTES // 2048 + 1, 1024), np.float16)
    ZarrBackend().write(tmp_path / "g", {"a": array}, {})
    assert sum(p.is_file() for p in (tmp_path / "g").rglob("*")) == 2 + 2
    Hdf5Backend().write(tmp_path / "g.h5", {"a": array}, {})
    assert (tmp_path / "g.h5").is_file()


def test_an_unknown_backend_is_corrected() -> None:
    """The error offers the backend that was meant."""
    with pytest.raises(UnknownName, match="did you mean 'zarr'"):
        find_backend("zar")
