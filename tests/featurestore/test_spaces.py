"""Reading feature spaces by key: packed, padded, as a matrix; every backend, codec, type and place."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_featurestore import Ragged, Store
from mer_featurestore.errors import BadInput, UnknownKey, UnknownName
from mer_featurestore.groups import BACKENDS, find_backend
from mer_featurestore.testing import DistantStorage
from support.features import fill, make_clips, make_spec, write

CHOICES = [(b, c) for b in BACKENDS for c in (None, *find_backend(b).codecs)]


@pytest.fixture(params=CHOICES, ids=lambda c: f"{c[0]}-{c[1]}")
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return each backend with each of its codecs."""
    return dict(zip(("backend", "codec"), request.param, strict=True))


def test_clips_come_back_by_key(tmp_path: Path, options: dict[str, Any]) -> None:
    """Any selection in any order, over fragments, with repeats and empty clips, is what was added."""
    spec = make_spec()
    store, clips = fill(tmp_path / "s", spec, **options)
    for space in (store.features["x-FRA"], Store.open(tmp_path / "s").features["x-FRA"]):
        assert space.keys() == list(clips)
        keys = ["clip/00059", "clip/00003", "clip/00003", *list(clips)[30:10:-3]]
        ragged = space.read(keys)
        assert len(ragged) == len(keys)
        assert ragged.data.dtype == np.float16
        for key, array in zip(keys, ragged, strict=True):
            np.testing.assert_array_equal(array, clips[key])
        np.testing.assert_array_equal(space["clip/00007"], clips["clip/00007"])
        np.testing.assert_array_equal(space[keys].data, ragged.data)
        np.testing.assert_array_equal(space.lengths(keys), [len(clips[k]) for k in keys])
        np.testing.assert_array_equal(space.lengths(), [len(a) for a in clips.values()])
        np.testing.assert_array_equal(space.read([]).data, np.empty((0, 6), np.float16))


def test_padded_batches(tmp_path: Path, options: dict[str, Any]) -> None:
    """Rows stand at the front, zeros and False follow, the cast comes out exact, and max_len cuts."""
    store, clips = fill(tmp_path / "s", make_spec(), **options)
    space, keys = store.features["x-FRA"], list(clips)[::7]
    for dtype, max_len in ((np.float32, None), (None, None), (np.float64, 4)):
        padded, mask = space.read_padded(keys, dtype=dtype, max_len=max_len)
        longest = min(max_len or 99, max(len(clips[k]) for k in keys))
        assert padded.shape == (len(keys), longest, 6)
        assert padded.dtype == np.dtype(dtype or np.float16)
        for i, key in enumerate(keys):
            n = min(len(clips[key]), longest)
            np.testing.assert_array_equal(padded[i, :n], clips[key][:n])
            assert not padded[i, n:].any()
            assert mask[i].tolist() == [True] * n + [False] * (longest - n)


def test_a_buffer_is_used_again(tmp_path: Path) -> None:
    """`out` holds the result, padding is cleared in it, and one that does not fit is refused."""
    store, clips = fill(tmp_path / "s", make_spec())
    space, keys = store.features["x-FRA"], list(clips)[:8]
    out = np.full((100, 6), np.nan, np.float16)
    assert np.shares_memory(space.read(keys, out=out).data, out)
    out[:] = np.nan
    padded, mask = space.read_padded(keys, dtype=None, out=out)
    assert np.shares_memory(padded, out)
    assert np.isfinite(padded).all()
    assert not padded[~mask].any()
    for bad in (out[:3], out.astype(np.float32), np.empty((100, 12), np.float16)[:, ::2]):
        with pytest.raises(BadInput, match="out must be C-contiguous float16"):
            space.read(keys, out=bad)


@pytest.mark.parametrize("clips", [1, 7, 1000])
def test_a_scan_meets_every_clip_once(tmp_path: Path, options: dict[str, Any], clips: int) -> None:
    """Batches come in store order with their keys, over fragments, empty clips among them, in one buffer."""
    store, added = fill(tmp_path / "s", make_spec(), **options)
    space, met = store.features["x-FRA"], []
    out = np.empty((sum(map(len, added.values())), 6), np.float16)
    for keys, ragged in space.scan(clips, out=out):
        assert len(keys) <= clips
        assert np.shares_memory(ragged.data, out) or not len(ragged.data)
        met += [(key, array.copy()) for key, array in zip(keys, ragged, strict=True)]
    assert [key for key, _ in met] == space.keys()
    for key, array in met:
        np.testing.assert_array_equal(array, added[key])


def test_only_empty_clips(tmp_path: Path) -> None:
    """A batch of clips without rows is padded to one row of zeros, masked."""
    store, spec = Store.create(tmp_path / "s"), make_spec()
    write(store, spec, {"a": np.empty((0, 6)), "b": np.empty((0, 6))})
    padded, mask = store.features["x-FRA"].read_padded(["b", "a"])
    assert padded.shape == (2, 1, 6)
    assert not padded.any()
    assert not mask.any()


def test_matrix(tmp_path: Path, options: dict[str, Any]) -> None:
    """An utterance-level space is one matrix in store order, or in the order asked for."""
    store, clips = fill(tmp_path / "s", make_spec("x-UTT"), **options)
    space = store.features["x-UTT"]
    np.testing.assert_array_equal(space.matrix(), np.concatenate(list(clips.values())))
    keys = list(clips)[::-3]
    np.testing.assert_array_equal(space.matrix(keys), np.concatenate([clips[k] for k in keys]))
    write(store, make_spec(), make_clips(2, make_spec()))
    with pytest.raises(BadInput, match="frame-level"):
        store.features["x-FRA"].matrix()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("row_shape", "dtype"), [((3, 5), "float16"), ((5120,), "float32"), ((1,), "float32")]
)
def test_row_shapes(tmp_path: Path, backend: str, row_shape: tuple[int, ...], dtype: str) -> None:
    """Rows with a layer axis, 5120 wide and one wide are stored; a long, a short and an empty clip."""
    spec = make_spec(row_shape=row_shape, dtype=dtype)
    width = int(np.prod(row_shape))
    clips = {"none": np.empty((0, *row_shape)), "one": np.full((1, *row_shape), 2.5)}
    clips["long"] = np.resize(np.arange(1999.0), (20_000 if width < 99 else 200, *row_shape))
    store = Store.create(tmp_path / "s", backend=backend)
    write(store, spec, clips)
    space = store.features["x-FRA"]
    for key, array in clips.items():
        np.testing.assert_array_equal(space[key], array.astype(dtype))
    assert space.read_padded(["one", "none"])[0].shape == (2, 1, *row_shape)
    assert space.spec == spec


def test_fragments_of_both_backends_and_codecs_are_one_space(tmp_path: Path) -> None:
    """A space may mix backends and codecs; reading does not notice."""
    store, spec, clips = Store.create(tmp_path / "s"), make_spec(), {}
    for i, (backend, codec) in enumerate(CHOICES):
        more = make_clips(11, spec, first=100 * i)
        write(store, spec, more, backend=backend, codec=codec)
        clips |= more
    keys = [list(clips)[i] for i in np.random.default_rng(3).permutation(len(clips))]
    np.testing.assert_array_equal(
        store.features["x-FRA"].read(keys).data, np.concatenate([clips[k] for k in keys])
    )


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    """The error names the space, up to three keys, and the command; a quarantined key tells its reason."""
    store, clips = fill(tmp_path / "s", make_spec())
    space = store.features["x-FRA"]
    assert "clip/00000" in space
    assert "nope" not in space
    assert space.missing(["nope", *list(clips)[:2], "no"]) == ["nope", "no"]
    with pytest.raises(
        UnknownKey, match="x-FRA has no features of 5 clips: '0', '1', '2' and 2 more"
    ) as raised:
        space.read(["0", "1", "clip/00003", "2", "3", "4"])
    assert raised.value.remedy == "extract them with: mer-fs extract --plugin prosody"
    with store.features.writer(space.spec) as writer:
        writer.quarantine("bad", "no audio stream")
    with pytest.raises(UnknownKey, match="'bad': no audio stream"):
        store.features["x-FRA"]["bad"]
    with pytest.raises(UnknownName, match="did you mean 'x-FRA'"):
        store.features["x-FRB"]


def test_spaces_are_a_mapping_that_follows_the_store(tmp_path: Path) -> None:
    """New spaces and clips appear after a write; a space taken before stays at its commit."""
    store, clips = fill(tmp_path / "s", make_spec(), parts=1)
    before = store.features["x-FRA"]
    assert store.features["x-FRA"] is before
    write(store, make_spec("y-UTT"), make_clips(2, make_spec("y-UTT")))
    write(store, make_spec(), make_clips(5, make_spec(), first=500))
    assert (list(store.features), len(store.features), "y-UTT" in store.features) == (
        ["x-FRA", "y-UTT"],
        2,
        True,
    )
    assert len(before) == len(clips)
    assert len(store.features["x-FRA"]) == len(clips) + 5
    assert len(Store.open(tmp_path / "s", at=1).features["x-FRA"]) == len(clips)
    assert "x-FRA" in repr(store.features)
    assert "25 clips" in repr(store.features["x-FRA"])
    assert before.fingerprint[:8] in repr(before)


def test_far_away(tmp_path: Path, options: dict[str, Any]) -> None:
    """A store whose files are not on this machine reads the same, by ranges or through the backend."""
    store, clips = fill(tmp_path / "s", make_spec(), **options)
    store.storage = DistantStorage(store.storage)
    store.features._store = store
    del store.features
    keys = list(clips)[5:50:4]
    np.testing.assert_array_equal(
        store.features["x-FRA"].read(keys).data, np.concatenate([clips[k] for k in keys])
    )


def test_on_s3(s3_url: str) -> None:
    """Both backends write to and read from an S3 server."""
    store, clips = Store.create(s3_url), {}
    for i, backend in enumerate(BACKENDS):
        more = make_clips(20, make_spec(), first=20 * i)
        write(store, make_spec(), more, backend=backend)
        clips |= more
    space = Store.open(s3_url).features["x-FRA"]
    keys = list(clips)[35:5:-2]
    np.testing.assert_array_equal(space.read(keys).data, np.concatenate([clips[k] for k in keys]))


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_forked_and_spawned_workers_read_after_the_parent(tmp_path: Path, codec: str | None) -> None:
    """Children that inherit or are sent an opened space read what the parent reads, and none hangs."""
    store, clips = fill(tmp_path / "s", make_spec(), codec=codec)
    space, keys = store.features["x-FRA"], list(clips)[::2]
    expected = space.read(keys).data
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=lambda: queue.put(space.read(keys).data.tobytes())) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        assert queue.get() == expected.tobytes()
        child.join(20)
        assert child.exitcode == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(space)).read(keys).data, expected)


def test_more_files_than_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the cap are opened again as needed, and no descriptor is left behind."""
    monkeypatch.setattr("mer_featurestore.positional.OPEN_FILES", 3)
    store, clips = fill(tmp_path / "s", make_spec(), parts=8, n=4)
    space, keys = store.features["x-FRA"], list(clips)[::-1]
    for _ in range(3):
        np.testing.assert_array_equal(space.read(keys).data, np.concatenate([clips[k] for k in keys]))
    assert len(space._reader._files) <= 3


def test_packed_features_say_what_they_are() -> None:
    """A notebook shows clips, rows and type, not thousands of numbers."""
    packed = Ragged.pack([np.zeros((2, 3), np.float16), np.ones((1, 3), np.float16)])
    assert repr(packed) == "Ragged(2 clips, 3 rows x 3 float16)"
