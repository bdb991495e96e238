"""Compaction: fewer fragments, the same features, readers undisturbed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.compact import compact
from mer_featurestore.errors import Damaged, UnknownName
from support.features import fill, make_clips, make_spec, write


@pytest.mark.parametrize(
    ("backend", "codec"), [("zarr", None), ("hdf5", None), ("zarr", "zstd"), ("hdf5", "lzf")]
)
def test_small_fragments_become_one(tmp_path: Path, backend: str, codec: str | None) -> None:
    """One commit puts one fragment for many; features, codec and old snapshots are as before."""
    store, clips = fill(tmp_path / "s", make_spec(), parts=6, store_backend=backend, codec=codec)
    before = store.features["x-FRA"]
    (report,) = compact(store, "x-FRA", command="mer-fs compact")
    assert (report.before, report.after, report.files_after < report.files_before) == (6, 1, True)
    assert store.commit == 7
    (fragment,) = store.features["x-FRA"].fragments
    fragment.check()
    assert (fragment.entry.backend, fragment.entry.attrs["codec"]) == (backend, codec)
    for space in (store.features["x-FRA"], before, Store.open(tmp_path / "s", at=6).features["x-FRA"]):
        assert space.keys() == list(clips)
        np.testing.assert_array_equal(space.read(list(clips)).data, np.concatenate(list(clips.values())))


def test_nothing_to_do_makes_no_commit(tmp_path: Path) -> None:
    """A single fragment, and large ones, are left alone."""
    store, _ = fill(tmp_path / "s", make_spec(), parts=1)
    assert [(r.before, r.after) for r in compact(store)] == [(1, 1)]
    write(store, make_spec(), make_clips(20, make_spec(), first=50))
    assert [(r.before, r.after) for r in compact(store, target_bytes=100)] == [(2, 2)]
    assert store.commit == 2
    with pytest.raises(UnknownName, match="x-FRA"):
        compact(store, "x-FRO")


def test_targets_backends_and_spaces(tmp_path: Path) -> None:
    """All spaces in one commit; fragments grow to the target only, and backends are not mixed in one."""
    store, _ = fill(tmp_path / "s", make_spec(), parts=6)
    write(store, make_spec(), make_clips(20, make_spec(), first=500), backend="hdf5")
    write(store, make_spec("x-UTT"), make_clips(5, make_spec("x-UTT")))
    write(store, make_spec("x-UTT"), make_clips(5, make_spec("x-UTT"), first=9))
    keys, data = store.features["x-FRA"].keys(), store.features["x-FRA"].read(store.features["x-FRA"].keys())
    commit = store.commit
    reports = compact(store, target_bytes=300 * 12)
    assert store.commit == commit + 1
    assert [(r.space, r.before, r.after) for r in reports] == [("x-FRA", 7, 3), ("x-UTT", 2, 1)]
    assert {f.entry.backend for f in store.features["x-FRA"].fragments} == {"zarr", "hdf5"}
    assert max(f.rows for f in store.features["x-FRA"].fragments) <= 300
    np.testing.assert_array_equal(store.features["x-FRA"].read(keys).data, data.data)


def test_writers_and_other_compactions_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was appended or merged meanwhile stays; the loser of two compactions leaves nothing."""
    store, clips = fill(tmp_path / "s", make_spec(), parts=4)
    rival, more = Store.open(tmp_path / "s"), make_clips(7, make_spec(), first=700)
    write_now, raced = store.write, []

    def late(build: Any, **options: Any) -> Any:
        if not raced:
            raced.append(compact(rival))
            write(rival, make_spec(), more)
        return write_now(build, **options)

    monkeypatch.setattr(store, "write", late)
    compact(store)
    assert sorted(store.features["x-FRA"].keys()) == sorted([*clips, *more])
    assert len(store.features["x-FRA"].fragments) == 2
    assert len({n.split("/")[2] for n in store.storage.list("features")}) == 4 + 1 + 1


def test_damage_is_not_copied(tmp_path: Path) -> None:
    """A flipped byte in what would be merged ends it, names the file, and changes nothing."""
    store, _ = fill(tmp_path / "s", make_spec(), parts=3)
    name = next(n for n in store.storage.list("features") if "/data/c/" in n)
    path = store.storage.path(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=name):
        compact(store)
    assert store.commit == 3
    assert len({n.split("/")[2] for n in store.storage.list("features")}) == 3
