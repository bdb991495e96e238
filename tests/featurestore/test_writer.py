"""Appending to feature spaces: what is refused, what is kept, and what happens when writers race."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.errors import BadInput, BadName, FingerprintMismatch, UnknownName
from mer_featurestore.groups import BACKENDS
from mer_featurestore.writer import FeatureWriter
from support.features import fill, make_clips, make_spec, write


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each backend."""
    return Store.create(tmp_path / "s", backend=request.param)


def test_two_levels_in_one_commit(store: Store) -> None:
    """A writer of two spaces makes one commit; None leaves a clip out; a row may come without its axis."""
    frame, utt = make_spec(), make_spec("x-UTT")
    with store.features.writer(frame, utt, command="mer-fs extract", message="hello") as writer:
        writer.add("a", np.ones((4, 6)), np.ones(6))
        writer.add("b", None, np.ones((1, 6)))
        writer.add("c", np.ones((2, 6), np.int8), None)
        assert writer.flush() == 1
        assert writer.flush() is None
    assert store.commit == 1
    assert store.features["x-FRA"].keys() == ["a", "c"]
    assert store.features["x-UTT"].keys() == ["a", "b"]
    (commit,) = store.log()
    assert (commit.command, commit.message, len(commit.add)) == ("mer-fs extract", "hello", 2)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.array([[np.nan] * 6, [1.0] * 6]), "6 of 12 values are NaN or infinite"),
        (np.full((2, 6), np.inf), "12 of 12 values are NaN or infinite"),
        (np.full((2, 6), 1e5), "values up to 100000 do not fit float16"),
        (np.full((2, 6), 70_000), "values up to 70000 do not fit float16"),
        (np.ones((2, 5)), r"float64\[2, 5\] where numbers \[T, 6\] belong"),
        (np.ones(6), "belong"),
        (np.ones((2, 6), complex), "belong"),
        (np.array([["a"] * 6]), "belong"),
    ],
)
def test_a_bad_array_is_refused_and_nothing_is_added(store: Store, array: Any, why: str) -> None:
    """The error names clip, space and reason; the other space of the writer does not get the clip either."""
    with store.features.writer(make_spec("x-UTT"), make_spec()) as writer:
        with pytest.raises(BadInput, match=f"k for the space x-FRA: .*{why}"):
            writer.add("k", np.ones(6), array)
        writer.add("fine", np.ones(6), np.ones((2, 6)))
    assert [store.features[s].keys() for s in ("x-UTT", "x-FRA")] == [["fine"]] * 2


def test_what_else_is_refused(store: Store) -> None:
    """Two rows at utterance level, a key twice or empty, a wrong number of arrays, impossible specs."""
    with store.features.writer(make_spec("x-UTT")) as writer:
        writer.add("k", np.ones(6))
        with pytest.raises(BadInput, match="2 rows"):
            writer.add("j", np.ones((2, 6)))
        with pytest.raises(BadInput, match="added twice"):
            writer.add("k", np.ones(6))
        with pytest.raises(BadInput, match="2 arrays for 1 spaces"):
            writer.add("j", np.ones(6), np.ones(6))
        with pytest.raises(BadName):
            writer.add("", np.ones(6))
    for bad in (
        {"row_shape": ()},
        {"row_shape": [6]},
        {"row_shape": (0,)},
        {"dtype": "float64"},
        {"made_by": {"x": {1, 2}}},
        {"level": "x"},
    ):
        with pytest.raises(BadInput):
            store.features.writer(make_spec("y-UTT", **bad))
    with pytest.raises(BadName):
        store.features.writer(make_spec("../y"))
    with pytest.raises(UnknownName, match="zarr offers none, zstd, blosc, gzip; hdf5 offers none, gzip, lzf"):
        store.features.writer(make_spec(), codec="lz5")
    with pytest.raises(UnknownName, match="backend"):
        store.features.writer(make_spec(), backend="lmdb")
    with pytest.raises(UnknownName, match="adapters/none"):
        write(store, make_spec(parents=("adapters/none",)), make_clips(1, make_spec()))
    assert list(store.features) == ["x-UTT"]


def test_another_fingerprint_is_refused_with_the_difference(store: Store) -> None:
    """Appending with other settings shows the fields that differ, both values, and no others."""
    write(store, make_spec(), make_clips(2, make_spec()))
    other = make_spec(
        made_by={"plugin": "prosody", "model": {"name": "m", "revision": "r2"}}, dtype="float32"
    )
    with pytest.raises(FingerprintMismatch) as raised:
        store.features.writer(other)
    assert 'made_by.model.revision: "r1" | "r2"' in str(raised.value)
    assert 'dtype: "float16" | "float32"' in str(raised.value)
    assert "plugin" not in raised.value.message
    # The same settings in another order, and another parent, are the same space.
    same = make_spec(made_by={"model": {"revision": "r1", "name": "m"}, "plugin": "prosody"})
    write(store, same, make_clips(2, make_spec(), first=10))
    assert len(store.features["x-FRA"]) == 4


def test_a_full_buffer_commits_by_itself(store: Store) -> None:
    """No buffer grows past its size, but a clip larger than it is stored all the same."""
    spec = make_spec()
    clips = make_clips(40, spec) | {"huge": np.ones((500, 6), np.float16)} | make_clips(9, spec, first=90)
    with FeatureWriter(store, [spec], "", "", store.backend, None, fragment_bytes=50 * 12) as writer:
        for key, array in clips.items():
            writer.add(key, array)
    fragments = store.features["x-FRA"].fragments
    assert len(fragments) > 4
    assert sorted(f.rows for f in fragments)[-2] <= 50
    assert store.features["x-FRA"].keys() == list(clips)
    for fragment in fragments:
        fragment.check()


def test_an_error_drops_the_rest_and_ctrl_c_keeps_whole_clips(store: Store) -> None:
    """Leaving with an error commits nothing more; on Ctrl-C what was added whole is committed."""
    specs = make_spec(), make_spec("x-UTT")

    def interrupted(by: type[BaseException]) -> None:
        with store.features.writer(*specs) as writer:
            writer.add("whole", np.ones((2, 6)), np.ones(6))
            writer._buffers[0].put("half", np.ones((2, 6), np.float16))  # interrupted within add()
            raise by

    with pytest.raises(ZeroDivisionError):
        interrupted(ZeroDivisionError)
    assert store.commit == 0
    with pytest.raises(KeyboardInterrupt):
        interrupted(KeyboardInterrupt)
    assert [store.features[s.name].keys() for s in specs] == [["whole"]] * 2


def test_keys_that_are_there_are_passed_over(store: Store) -> None:
    """A key the space has keeps its first features; the writer counts what it passed over."""
    first, spec = make_clips(10, make_spec()), make_spec()
    write(store, spec, first)
    with store.features.writer(spec) as writer:
        for key in first:
            writer.add(key, np.zeros((1, 6)))
        writer.add("new", np.zeros((1, 6)))
    assert writer.skipped == {"x-FRA": 10}
    space = store.features["x-FRA"]
    assert space.keys() == [*first, "new"]
    np.testing.assert_array_equal(space.read(list(first)).data, np.concatenate(list(first.values())))
    with store.features.writer(spec) as writer:
        writer.add("new", np.zeros((1, 6)))
    assert store.commit == 2


def test_a_lost_race_keeps_each_key_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When others commit the same keys between build and commit, they are dropped and the rest written."""
    spec, mine, theirs = make_spec(), make_clips(30, make_spec()), make_clips(12, make_spec())
    rival = Store.open(store.url)
    create, raced = store.journal._create, []

    def late(commit: Any) -> bool:
        if not raced:
            raced.append(write(rival, spec, theirs))
        return create(commit)

    monkeypatch.setattr(store.journal, "_create", late)
    write(store, spec, mine)
    assert raced == [1]
    space = store.features["x-FRA"]
    assert space.keys() == list(mine)
    assert [len(f) for f in space.fragments] == [12, 18]
    named = {name for p in store.snapshot.all() for name in p.entry.file_names()}
    assert set(store.storage.list("features")) == named  # the fragment that lost is gone


def test_a_lost_race_for_the_name_is_a_mismatch(store: Store) -> None:
    """Two writers of different settings: the second to commit is refused, and leaves nothing behind."""
    rival = Store.open(store.url)
    writer = store.features.writer(make_spec())
    writer.add("a", np.ones((1, 6)))
    write(rival, make_spec(row_shape=(4,)), {"a": np.ones((1, 4))})
    with pytest.raises(FingerprintMismatch):
        writer.flush()
    assert store.storage.list("features").keys() == set(rival.snapshot.entries("features")[0].file_names())


def test_quarantine_comes_and_goes(store: Store) -> None:
    """Reasons are committed with the features of the same flush, and lifted when features come."""
    frame, utt = make_spec(), make_spec("x-UTT")
    with store.features.writer(frame, utt) as writer:
        writer.add("a", np.ones((1, 6)), np.ones(6))
        writer.quarantine("b", "no audio stream")
        writer.quarantine("c", "too short", "x-FRA")
    assert store.commit == 1
    assert store.features.quarantine("x-FRA") == {"b": "no audio stream", "c": "too short"}
    assert store.features.quarantine("x-UTT") == {"b": "no audio stream"}
    with store.features.writer(frame) as writer:
        writer.quarantine("c", "again")
        writer.add("c", np.ones((1, 6)))
        writer.add("b", np.ones((1, 6)))
    assert store.features.quarantine("x-FRA") == {}
    assert store.features.quarantine("x-UTT") == {"b": "no audio stream"}


def test_a_past_store_is_not_written(tmp_path: Path) -> None:
    """A store opened at a commit refuses to write."""
    fill(tmp_path / "p", make_spec())
    past = Store.open(tmp_path / "p", at=1)
    with pytest.raises(Exception, match="which is past"):
        write(past, make_spec(), make_clips(1, make_spec(), first=900))
