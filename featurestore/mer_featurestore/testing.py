"""Conformance kit for backends: subclass `BackendTests` in a pytest module and name the backend.

    class TestMine(BackendTests):
        backend = MyBackend()

Needs pytest. Both built-in backends pass it.
"""

import multiprocessing
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mer_featurestore.errors import Damaged, UnknownName
from mer_featurestore.groups import Backend, Blocks, Group
from mer_featurestore.positional import Reader, plan
from mer_featurestore.storage import LocalStorage, Storage

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool")
ATTRS = {"text": "naïve 中文", "number": 1.5, "none": None, "deep": {"list": [1, "two", [3]], "empty": {}}}


class DistantStorage(Storage):
    """A local folder that looks as if it were far away: every byte goes through `read`."""

    def __init__(self, storage: Storage) -> None:
        self._near, self.url = storage, f"distant:{storage.url}"

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes of a file."""
        return self._near.read(name, start, length)

    def create(self, name: str, data: bytes) -> None:
        """Make a file."""
        self._near.create(name, data)

    def upload(self, source: Path, name: str) -> None:
        """Publish a file or folder; one from `staging()` of the system's temp is copied."""
        for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
            below = path.relative_to(source).as_posix()
            self._near.create(name if below == "." else f"{name}/{below}", path.read_bytes())

    def list(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return name -> size."""
        return self._near.list(prefix, after=after)

    def modified(self, prefix: str = "") -> dict[str, float]:
        """Return name -> time of last change."""
        return self._near.modified(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files."""
        self._near.delete(names)

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return self._near.exists(name)


class BackendTests:
    """What every backend must do. Give `backend`; groups go to a temporary folder."""

    backend: Backend

    @pytest.fixture
    def near(self, tmp_path: Path) -> LocalStorage:
        """Return an empty folder as storage."""
        return LocalStorage(tmp_path / "storage")

    @pytest.fixture(params=["near", "far"])
    def storage(self, request: pytest.FixtureRequest, near: LocalStorage) -> Storage:
        """Return the folder as it is, then as if it were remote."""
        return near if request.param == "near" else DistantStorage(near)

    def make(
        self, storage: Storage, arrays: dict[str, Any], attrs: dict[str, Any] | None = None, **options: Any
    ) -> Group:
        """Write a group and open it."""
        path = f"folder/group{self.backend.suffix}"
        with storage.staging() as folder:
            local = folder / f"group{self.backend.suffix}"
            self.backend.write(local, arrays, attrs or {}, **options)
            storage.flush(local)
            storage.upload(local, path)
        return self.backend.open(storage, path)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_type_comes_back(self, storage: Storage, dtype: str) -> None:
        """Values, shapes and types are what was written, the extremes of a type included."""
        array = numbers((37, 5), dtype)
        group = self.make(storage, {"a": array, "one": array[0]})
        assert group.names == ("a", "one")
        for name, expected in (("a", array), ("one", array[0])):
            assert (group.shape(name), group.dtype(name)) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(group.read(name), expected)

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0), (1,), (1, 1), (7, 2, 3)])
    def test_odd_shapes_come_back(self, storage: Storage, shape: tuple[int, ...]) -> None:
        """Empty and one-row arrays, and those with several axes, are arrays like others."""
        array = numbers(shape, "float32")
        group = self.make(storage, {"a": array})
        assert group.shape("a") == shape
        np.testing.assert_array_equal(group.read("a"), array)
        layout = group.extents("a")
        assert layout is None or layout.starts[-1] == (shape[0] if array.size else 0)

    def test_slices(self, storage: Storage) -> None:
        """A slice is the slice of the array, over chunks and shards, and behind the end there is nothing."""
        array = large()
        group = self.make(storage, {"a": array})
        for start, stop in ((0, 3), (430, 440), (54_900, 56_010), (57_990, 80_000), (50, 50), (9, 5)):
            np.testing.assert_array_equal(group.read("a", start, stop), array[start:stop])

    def test_an_array_in_pieces_is_the_whole(self, storage: Storage) -> None:
        """`Blocks` of any sizes, empty ones and one overwritten buffer too, make the same array."""
        array = numbers((10_000, 64), "float32")
        whole = Blocks(array.shape, array.dtype, _pieces(array))
        np.testing.assert_array_equal(self.make(storage, {"a": whole}).read("a"), array)

    def test_attributes_come_back(self, storage: Storage) -> None:
        """Attributes are the same JSON, also when they are large."""
        attrs = {**ATTRS, "large": ["x" * 1000] * 200}
        assert self.make(storage, {"a": np.arange(3)}, attrs).attrs == attrs

    def test_extents_are_where_the_bytes_are(self, near: LocalStorage) -> None:
        """Positional reads at the extents of a plain array give its rows."""
        array = large()
        layout = self.make(near, {"a": array}).extents("a")
        assert layout is not None
        rows, counts = [0, 57_999, 54_900, 100], [3, 1, 1120, 0]
        sizes = np.array(counts) * layout.row_bytes
        buffer = np.empty(sizes.sum(), np.uint8)
        targets = (np.cumsum(sizes) - sizes).tolist()
        Reader(near).read(plan(layout, rows, counts, targets), buffer.data)
        expected = np.concatenate([array[r : r + n] for r, n in zip(rows, counts, strict=True)])
        np.testing.assert_array_equal(buffer.view(np.float16).reshape(-1, 600), expected)

    def test_codecs(self, storage: Storage) -> None:
        """Every codec the backend offers gives the values back, smaller, and has no extents."""
        array = np.repeat(numbers((500, 8), "float32"), 64, axis=1)
        for codec in self.backend.codecs:
            storage.delete(storage.list("folder"))
            group = self.make(storage, {"a": array, "b": array[:3]}, codecs={"a": codec})
            np.testing.assert_array_equal(group.read("a"), array)
            np.testing.assert_array_equal(group.read("a", 77, 311), array[77:311])
            assert group.extents("a") is None
            assert group.extents("b") is not None
            assert sum(storage.list("folder").values()) < array.nbytes

    def test_an_unknown_codec_is_refused(self, near: LocalStorage) -> None:
        """The error names the codecs there are."""
        with pytest.raises(UnknownName, match=next(iter(self.backend.codecs))):
            self.make(near, {"a": np.arange(3)}, codecs={"a": "no-such-codec"})

    def test_what_json_cannot_hold_is_refused(self, near: LocalStorage) -> None:
        """NaN in attributes is an error when they are written, not when they are read."""
        with pytest.raises(ValueError, match="JSON"):
            self.make(near, {"a": np.arange(3)}, {"nan": float("nan")})

    def test_missing_files_are_damage(self, near: LocalStorage) -> None:
        """Whichever file is missing, reading says so and names it; nothing is taken for zeros."""
        arrays: dict[str, NDArray[Any]] = {"a": np.ones((2000, 600), np.float16), "b": np.ones(9)}
        self.make(near, arrays)
        for name in near.list("folder"):
            moved = near.path(name).rename(near.folder / "aside")
            with pytest.raises(Damaged, match=name.rsplit("/", 3)[-1]):
                self._read_all(near, arrays)
            moved.rename(near.path(name))

    def test_truncated_files_are_damage(self, near: LocalStorage) -> None:
        """Whichever file is cut short, reading says so and names the group."""
        arrays: dict[str, NDArray[Any]] = {"a": np.ones((2000, 600), np.float16), "b": np.ones(9)}
        self.make(near, arrays)
        for name, size in near.list("folder").items():
            whole = near.read(name)
            near.path(name).write_bytes(whole[: size // 2])
            with pytest.raises(Damaged, match="group"):
                self._read_all(near, arrays)
            near.path(name).write_bytes(whole)

    def test_a_group_can_be_sent_and_inherited(self, near: LocalStorage) -> None:
        """An opened group that was read from works after pickling, and in a forked process."""
        array = numbers((3000, 300), "float32")
        group = self.make(near, {"a": array, "z": array}, codecs={"z": next(iter(self.backend.codecs))})
        group.read("a")
        group.read("z")
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(group)).read("z"), array)  # noqa: S301
        queue = multiprocessing.get_context("fork").SimpleQueue()
        child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(group, queue))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert queue.get() == [float(array.sum())] * 2

    def _read_all(self, storage: Storage, arrays: dict[str, NDArray[Any]]) -> None:
        group = self.backend.open(storage, f"folder/group{self.backend.suffix}")
        for name, array in arrays.items():
            group.extents(name)
            np.testing.assert_array_equal(group.read(name), array)


def numbers(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return varied values of a type, its smallest and largest among them."""
    kind = np.dtype(dtype)
    values = np.random.default_rng(0).integers(0, 251, shape, np.int64).astype(kind)
    if kind.kind in "iu" and values.size > 1:
        values.flat[0], values.flat[-1] = np.iinfo(kind).min, np.iinfo(kind).max
    if kind.kind == "f" and values.size > 1:
        values.flat[0], values.flat[-1] = np.finfo(kind).min, np.finfo(kind).smallest_subnormal
    return values


def large() -> NDArray[np.float16]:
    """Return `[58000, 600]` float16, 70 MB: more than one shard where there are shards."""
    return np.resize(numbers((997, 600), "float16"), (58_000, 600))


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    room, start = np.empty_like(array), 0
    for rows in (1, 0, 2999, 4000, len(array)):
        part = array[start : start + rows]
        room[: len(part)] = part
        yield room[: len(part)]
        start += len(part)


def _read_in_child(group: Group, queue: Any) -> None:
    queue.put([float(group.read("a").sum()), float(group.read("z").sum())])
