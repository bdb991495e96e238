"""The key index: hashes propose, keys decide."""

from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Store, fragments, index
from mer_featurestore.index import KeyIndex, hash_keys
from support.features import fill, make_spec, write


def test_hashes_are_stable() -> None:
    """The hash is part of the format: it never changes."""
    assert hash_keys([b"clip/1", "ü".encode()]).tolist() == [15296211533016664434, 3976460501203677525]


def test_every_key_is_found_and_no_other(tmp_path: Path) -> None:
    """Over many fragments each key leads to its own clip; other keys lead nowhere."""
    store, clips = fill(tmp_path / "s", make_spec(), parts=7, n=50)
    found = store.features["x-FRA"].index.find([*clips, "clip/99999", "", "clip/0000"])
    assert found.tolist() == [*range(350), -1, -1, -1]
    assert KeyIndex([]).find(["a"]).tolist() == [-1]


@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_colliding_hashes(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that share a hash, within a fragment and over fragments, are told apart."""

    def poor(keys: list[bytes]) -> np.ndarray:
        return np.array([sum(key) % 3 for key in keys], np.uint64)

    for module in (index, fragments):
        monkeypatch.setattr(module, "hash_keys", poor)
    monkeypatch.setattr("mer_featurestore.writer.hash_keys", poor)
    store, clips = fill(tmp_path / "s", make_spec(), parts=3, n=15, store_backend=backend)
    space = store.features["x-FRA"]
    for key, array in clips.items():
        np.testing.assert_array_equal(space[key], array)
    assert space.missing(["clip/00045", "clip/1"]) == ["clip/00045", "clip/1"]
    with store.features.writer(make_spec()) as writer:
        writer.add("clip/00001", np.zeros((1, 6)))
        writer.add("clip/00045", np.zeros((1, 6)))
    assert writer.skipped == {"x-FRA": 1}


def test_keys_of_every_script(tmp_path: Path) -> None:
    """Keys are any text: other scripts, separators, dots, 500 bytes, one a prefix of another."""
    keys = ["ключ", "鍵/話", "../x", "/etc/passwd", "a", "a" * 500, "a ", "con", "e\u0301", "\u00e9", "🙂"]
    store = Store.create(tmp_path / "s")
    write(store, make_spec(), {key: np.full((1, 6), i) for i, key in enumerate(keys)})
    space = Store.open(tmp_path / "s").features["x-FRA"]
    assert space.keys() == keys
    assert space.read(keys).data[:, 0].tolist() == list(range(len(keys)))
