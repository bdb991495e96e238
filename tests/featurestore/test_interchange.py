"""Features of other tools in, ours out: the same numbers, with a record of where they came from."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import BadInput, BadName, FingerprintMismatch, NameTaken, UnknownName
from mer_featurestore.interchange.exporting import batches, export_space, views
from mer_featurestore.interchange.importing import ImportOptions, import_mmsa, import_space, open_source
from mer_featurestore.interchange.mertools import read_label_npz

RNG = np.random.default_rng(0)
UTT = {key: RNG.normal(size=4).astype(np.float32) for key in ("a", "b", "c")}
FRA = {key: RNG.normal(size=(n, 4)).astype(np.float32) for key, n in (("a", 3), ("b", 1), ("c", 5))}
CREATE = ImportOptions(create_clips=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store with the clips a, b (train) and c (test); Zarr unless a test is parametrised."""
    store = Store.create(tmp_path / "store", backend=getattr(request, "param", "zarr"))
    store.clips.add(
        [Clip(key=k, split=s, text="hi") for k, s in (("a", "train"), ("b", "train"), ("c", "test"))]
    )
    return store


def folder(path: Path, arrays: dict[str, Any]) -> Path:
    """Write a MERTools folder."""
    path.mkdir()
    for key, array in arrays.items():
        np.save(path / f"{key}.npy", array)
    return path


def hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an HDF5 file with a dataset per key."""
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an .npz with an array per key."""
    np.savez(path, **arrays)
    return path


def parquet(path: Path, arrays: dict[str, Any]) -> Path:
    """Write a Parquet file with a column of (nested) lists, as pandas would."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"key": list(arrays), "emb": [a.tolist() for a in arrays.values()], "n": [1] * len(arrays)}
    )
    pq.write_table(table, path)
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, dict[str, Any]], Path]]] = {
    "mertools": ("feats", folder),
    "hdf5": ("feats.h5", hdf5),
    "npz": ("feats.npz", npz),
    "parquet": ("feats.parquet", parquet),
}


@pytest.mark.parametrize("store", ["zarr", "hdf5"], indirect=True)
@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("level", ["utt", "frame"])
def test_every_format_gives_its_numbers(store: Store, tmp_path: Path, form: str, level: str) -> None:
    """The arrays arrive under the name with its level, and again is nothing to do."""
    name, write = WRITERS[form]
    arrays = UTT if level == "utt" else FRA
    path = write(tmp_path / name, arrays)
    report = import_space(store, open_source(form, path), "enc", "audio")
    assert report.space == ("enc-UTT" if level == "utt" else "enc-FRA")
    assert (report.added, report.present, report.left_out, report.quarantined) == (3, 0, 0, {})
    space = Store.open(store.url).features[report.space]
    for key, array in arrays.items():
        assert np.array_equal(space[key], np.atleast_2d(array).astype(np.float32))
    commit = store.commit
    again = import_space(store, open_source(form, path), "enc", "audio")
    assert (again.added, again.present, store.commit) == (0, 3, commit)


def test_the_record_says_where_it_came_from(store: Store, tmp_path: Path) -> None:
    """Format, name, content hash and original type are in made_by; other content is another fingerprint."""
    path = folder(tmp_path / "hubert-UTT", {key: array.astype(np.float64) for key, array in UTT.items()})
    import_space(store, open_source("mertools", path), "hubert", "audio")
    made_by = store.features["hubert-UTT"].spec.made_by["imported"]
    assert {k: made_by[k] for k in ("format", "source", "dtype")} == {
        "format": "mertools",
        "source": "hubert-UTT",
        "dtype": "float64",
    }
    assert len(made_by["sha256"]) == 64
    np.save(path / "a.npy", np.zeros(4))
    with pytest.raises(FingerprintMismatch, match="sha256"):
        import_space(store, open_source("mertools", path), "hubert", "audio")


def test_stored_types(store: Store, tmp_path: Path) -> None:
    """float16 stays, integers and doubles become float32, an explicit type wins."""
    for name, dtype, asked, stored in (
        ("half", np.float16, None, "float16"),
        ("int", np.int32, None, "float32"),
        ("double", np.float64, None, "float32"),
        ("forced", np.float64, "float16", "float16"),
    ):
        path = npz(tmp_path / f"{name}.npz", {"a": np.ones(3, dtype)})
        import_space(store, open_source("npz", path), name, "text", ImportOptions(dtype=asked))  # type: ignore[arg-type]
        assert store.features[f"{name}-UTT"].spec.dtype == stored


def test_mertools_oddities(store: Store, tmp_path: Path) -> None:
    """[1, D] in -UTT, [D] and empty arrays in -FRA, a folder of frames per clip, other files ignored."""
    utt = folder(tmp_path / "x-UTT", {"a": UTT["a"][None], "b": UTT["b"]})
    (utt / "readme.txt").write_text("no feature")
    import_space(store, open_source("mertools", utt), "x", "audio")
    assert store.features["x-UTT"].matrix(["a", "b"]).tolist() == [UTT["a"].tolist(), UTT["b"].tolist()]
    fra = folder(tmp_path / "x-FRA", {"a": UTT["a"], "b": np.array([])})
    folder(fra / "c", {"0001": UTT["a"], "0002": UTT["b"]})
    import_space(store, open_source("mertools", fra), "x", "audio")
    assert store.features["x-FRA"].lengths(["a", "b", "c"]).tolist() == [1, 0, 2]
    assert np.array_equal(store.features["x-FRA"]["c"], np.stack([UTT["a"], UTT["b"]]))


def test_broken_files_are_quarantined_and_the_rest_is_done(store: Store, tmp_path: Path) -> None:
    """A damaged file, objects, another width, NaN: each with its reason; once, not at every try."""
    path = folder(tmp_path / "y-UTT", {"a": UTT["a"], "b": np.array([1, np.nan, 2, 3])})
    np.save(path / "c.npy", np.zeros(9))
    store.clips.add([Clip(key=k) for k in ("cut", "obj")])
    (path / "cut.npy").write_bytes((path / "a.npy").read_bytes()[:-3])
    np.save(path / "obj.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    report = import_space(store, open_source("mertools", path), "y", "audio")
    assert report.added == 1
    reasons = store.features.quarantine("y-UTT")
    assert reasons == report.quarantined
    assert set(reasons) == {"b", "c", "cut", "obj"}
    assert "NaN" in reasons["b"]
    assert "cut.npy" in reasons["cut"]
    commit = store.commit
    import_space(store, open_source("mertools", path), "y", "audio")
    assert store.commit == commit


def test_one_odd_clip_does_not_keep_the_others_out(store: Store, tmp_path: Path) -> None:
    """Frames of different lengths, and headers that promise terabytes or do not parse: quarantined."""
    path = folder(tmp_path / "f-FRA", FRA)
    for key in ("a", "b"):
        (path / f"{key}.npy").unlink()
    (path / "a").mkdir()
    for frame in (1, 2):
        np.save(path / "a" / f"{frame}.npy", np.ones(frame))
    with (path / "b.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    broken = (path / "b.npy").read_bytes().replace(b"}", b" ")
    (path / "d.npy").write_bytes(broken)
    report = import_space(store, open_source("mertools", path), "f", "video", CREATE)
    assert (report.added, set(report.quarantined)) == (1, {"a", "b", "d"})
    assert "have different lengths" in report.quarantined["a"]


def test_two_files_of_one_clip_are_refused(tmp_path: Path) -> None:
    """A file beside a folder of frames of the same name: neither is chosen silently."""
    path = folder(tmp_path / "f-FRA", FRA)
    folder(path / "a", UTT)
    with pytest.raises(BadInput, match="clip 'a' occurs twice"):
        open_source("mertools", path)


@pytest.mark.parametrize("form", ["npz", "parquet", "hdf5"])
def test_whatever_is_damaged_in_a_file_the_error_names_it(tmp_path: Path, form: str) -> None:
    """Flipped bits and a file that is cut: an error of ours with the path, or data, never a codec's own."""
    path = tmp_path / f"feats.{form}"
    write = {"parquet": parquet, "hdf5": hdf5, "npz": lambda p, arrays: raw(p, np.savez_compressed, **arrays)}
    write[form](path, FRA)
    data = path.read_bytes()
    for _ in range(300):
        harmed = bytearray(data)
        harmed[RNG.integers(len(data))] ^= 1 << int(RNG.integers(8))
        path.write_bytes(harmed[: None if RNG.random() < 0.8 else RNG.integers(len(data))])
        found = None
        try:
            source = open_source(form, path)
            list(source.items(frozenset(source.keys)))
        except BadInput as error:
            found = error
        assert found is None or path.name in found.message


def test_infinite_values_can_be_set_to_zero(store: Store, tmp_path: Path) -> None:
    """As MMSA does with COVAREP features; the fingerprint says so."""
    path = npz(tmp_path / "z.npz", {"a": np.array([1, -np.inf, np.nan])})
    import_space(store, open_source("npz", path), "z", "audio", ImportOptions(non_finite="zero"))
    assert store.features["z-UTT"]["a"].tolist() == [[1, 0, 0]]
    assert store.features["z-UTT"].spec.made_by["imported"]["non_finite"] == "zero"


def test_clips_the_catalogue_does_not_have(store: Store, tmp_path: Path) -> None:
    """An error with the remedies; left out, or added to the catalogue, when asked for."""
    path = npz(tmp_path / "n.npz", {"a": np.ones(2), "new": np.zeros(2), "newer": np.zeros(2)})
    with pytest.raises(
        BadInput, match=r"clip 'new' is not in the catalogue \(and 1 more\); .*--create-clips"
    ):
        import_space(store, open_source("npz", path), "n", "text")
    assert "n-UTT" not in store.features
    left = import_space(store, open_source("npz", path), "n", "text", ImportOptions(ignore_unknown=True))
    assert (left.added, left.left_out) == (1, 2)
    made = import_space(store, open_source("npz", path), "n", "text", CREATE)
    assert (made.added, made.present) == (2, 1)
    assert store.clips["new"].split == "unlabeled"


def test_one_matrix_with_its_keys(store: Store, tmp_path: Path) -> None:
    """Row i belongs to line i; another number of lines is refused."""
    np.save(tmp_path / "m.npy", np.arange(6.0).reshape(3, 2))
    keys = tmp_path / "keys.txt"
    keys.write_text("c\na\n\nb\n")
    import_space(store, open_source("npy", tmp_path / "m.npy", keys=keys), "m", "text")
    assert store.features["m-UTT"].matrix(["a", "c"]).tolist() == [[2, 3], [0, 1]]
    keys.write_text("c\na\n")
    with pytest.raises(BadInput, match=r"shape \(3, 2\) and there are 2 keys"):
        open_source("npy", tmp_path / "m.npy", keys=keys)
    with pytest.raises(BadInput, match="pass --keys FILE"):
        open_source("npy", tmp_path / "m.npy")


def test_hdf5_with_a_group_per_key(store: Store, tmp_path: Path) -> None:
    """One dataset in each group is taken by itself, several need --member (as hloc's local features)."""
    one = hdf5(tmp_path / "g.h5", {f"{k}/global_descriptor": v for k, v in UTT.items()})
    import_space(store, open_source("hdf5", one), "g", "video")
    assert np.array_equal(store.features["g-UTT"]["b"][0], UTT["b"])
    many = hdf5(tmp_path / "l.h5", {f"{k}/{m}": v for k, v in FRA.items() for m in ("descriptors", "scores")})
    with pytest.raises(BadInput, match="choose one with --member descriptors"):
        open_source("hdf5", many)
    with pytest.raises(BadInput, match="no datasets named 'x'; there are: descriptors, scores"):
        open_source("hdf5", many, member="x")
    import_space(store, open_source("hdf5", many, member="descriptors"), "l", "video")
    assert np.array_equal(store.features["l-FRA"]["c"], FRA["c"])


def test_hdf5_does_not_reach_into_other_files(store: Store, tmp_path: Path) -> None:
    """External links are not followed, external storage and virtual datasets are refused."""
    (tmp_path / "secret").write_bytes(b"\1" * 32)
    hdf5(tmp_path / "other.h5", {"x": np.ones(4)})
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["a"] = np.ones(4)
        file["b"] = h5py.ExternalLink("other.h5", "/x")
        file.create_dataset("c", (8,), "f4", external=[(str(tmp_path / "secret"), 0, 32)])
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(4,))
        file.create_virtual_dataset("v", layout)
    store.clips.add([Clip(key="v")])
    source = open_source("hdf5", tmp_path / "evil.h5")
    assert "b" not in source.keys
    report = import_space(store, source, "e", "audio")
    assert report.added == 1
    assert all("bytes in other files" in reason for reason in report.quarantined.values())
    assert set(report.quarantined) == {"c", "v"}


def nothing(path: Path) -> None:
    """Write nothing."""


def raw(path: Path, save: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Write with numpy under exactly this name."""
    with path.open("wb") as file:
        save(file, *args, **kwargs)


def folder_of(path: Path) -> None:
    """Write a folder of MERTools folders."""
    path.mkdir()
    folder(path / "inner-UTT", UTT)
    (path / "inner-UTT").rename(path / "deep")
    (path / "x").mkdir()
    (path / "deep").rename(path / "x" / "inner-UTT")


def flat(path: Path, columns: dict[str, Any]) -> None:
    """Write a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


NOTHING: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no folder": ("mertools", nothing, "is not a folder"),
    "empty folder": ("mertools", lambda p: p.mkdir(), "holds no .npy files"),
    "folder of folders": ("mertools", folder_of, "name one of the folders in it"),
    "only empty arrays": ("mertools", lambda p: folder(p, {"a": np.array([])}), "no array of numbers"),
    "single numbers": ("mertools", lambda p: folder(p, {"a": np.array(1.0)}), "is a single number"),
    "no npz": ("npz", lambda p: p.write_text("x"), "is not an .npz file"),
    "npy as npz": ("npz", lambda p: raw(p, np.save, np.ones(3)), "is not an .npz file"),
    "missing npz": ("npz", nothing, "no such file"),
    "bad offsets": (
        "npz",
        lambda p: raw(p, np.savez, keys=["a"], data=np.ones((2, 2)), offsets=[0, 5]),
        "offsets do not fit 1 keys and 2 rows",
    ),
    "no hdf5": ("hdf5", lambda p: p.write_text("x"), "is not an HDF5 file"),
    "missing hdf5": ("hdf5", nothing, "no such file"),
    "hdf5 of nothing": ("hdf5", lambda p: hdf5(p, {}), "holds no features"),
    "parquet without keys": ("parquet", lambda p: flat(p, {"id": ["a"], "x": [[1.0]]}), "has no column key"),
    "parquet of numbers": (
        "parquet",
        lambda p: flat(p, {"key": ["a"], "x": [1.0]}),
        "has 0 columns of lists",
    ),
    "parquet of two": (
        "parquet",
        lambda p: flat(p, {"key": ["a"], "x": [[1.0]], "y": [[1.0]]}),
        "--member NAME",
    ),
    "a key twice": (
        "parquet",
        lambda p: flat(p, {"key": ["a", "a"], "x": [[1.0], [2.0]]}),
        "'a' occurs twice",
    ),
    "unknown format": ("matlab", nothing, "no format to import named 'matlab'"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_import_is_explained(tmp_path: Path, case: str) -> None:
    """One line with the path and the remedy."""
    form, make, message = NOTHING[case]
    path = tmp_path / "thing"
    make(path)
    with pytest.raises((BadInput, UnknownName), match=message):
        open_source(form, path)


def test_ragged_and_missing_cells_of_parquet(store: Store, tmp_path: Path) -> None:
    """Rows of different lengths, nulls and words are quarantined with their reason."""
    cells = [[[1.0, 2.0], [3.0, 4.0]], [[1.0], [2.0, 3.0, 4.0]], None]
    flat(tmp_path / "r.parquet", {"key": ["a", "b", "c"], "x": cells})
    report = import_space(store, open_source("parquet", tmp_path / "r.parquet"), "r", "text")
    assert report.added == 1
    assert "different lengths" in report.quarantined["b"]
    assert "no list" in report.quarantined["c"]


def test_a_name_that_says_another_level_is_refused(store: Store, tmp_path: Path) -> None:
    """A frame-level matrix is not stored as -UTT."""
    path = npz(tmp_path / "f.npz", FRA)
    with pytest.raises(BadInput, match="holds frame-level features and the name 'f-UTT' says utt"):
        import_space(store, open_source("npz", path), "f-UTT", "text")


def test_hostile_keys_are_data(store: Store, tmp_path: Path) -> None:
    """A key like a path stays a key; one that cannot be stored is refused with the file's name."""
    path = tmp_path / "h.parquet"
    flat(path, {"key": ["../../x", "/etc/passwd"], "x": [[1.0], [2.0]]})
    import_space(store, open_source("parquet", path), "h", "text", CREATE)
    assert store.features["h-UTT"]["../../x"].tolist() == [[1.0]]
    flat(path, {"key": ["bad\nkey"], "x": [[1.0]]})
    with pytest.raises(BadName, match=r"h.parquet: .* control characters"):
        import_space(store, open_source("parquet", path), "h2", "text", CREATE)


def mmsa(**changes: Any) -> dict[str, Any]:
    """Return a document as MMSA-FET writes it: two training clips and a test clip, padded."""
    train = {
        "id": ["vid1$_$01", "vid1$_$02"],
        "raw_text": np.array(["hello", "bye"]),
        "audio": RNG.normal(size=(2, 5, 3)),
        "audio_lengths": [2, 5],
        "vision": RNG.normal(size=(2, 4, 2)).astype(np.float32),
        "vision_lengths": [[4], [1]],
        "text": RNG.normal(size=(2, 6, 4)).astype(np.float32),
        "text_bert": np.stack(
            [np.zeros((2, 6)), np.array([[1, 1, 1, 0, 0, 0], [1] * 6]), np.zeros((2, 6))], axis=1
        ),
        "annotations": ["Positive", "Negative"],
        "regression_labels": np.array([1.0, -1.0]),
    }
    test = {k: v[:1] for k, v in train.items()} | {"id": np.array(["vid9$_$07"]), "annotations": ["Neutral"]}
    return {"train": train | changes, "valid": {}, "test": test}


@pytest.mark.parametrize("protocol", range(6))
def test_mmsa_files_are_read_without_running_them(store: Store, tmp_path: Path, protocol: int) -> None:
    """Three spaces cut to their lengths, clips with split, transcript and group, annotations as a layer."""
    document = mmsa()
    path = tmp_path / "feature.pkl"
    path.write_bytes(pickle.dumps(document, protocol))
    reports = import_mmsa(store, path, "mosi", CREATE, labels_as="mosi-gold")
    assert [r.space for r in reports] == ["mosi-audio-FRA", "mosi-vision-FRA", "mosi-text-FRA"]
    keys = ["vid1$_$01", "vid1$_$02", "vid9$_$07"]
    lengths = {r.space: store.features[r.space].lengths(keys).tolist() for r in reports}
    assert list(lengths.values()) == [[2, 5, 2], [4, 1, 4], [3, 6, 3]]
    audio = document["train"]["audio"][0, :2].astype(np.float32)
    assert np.array_equal(store.features["mosi-audio-FRA"]["vid1$_$01"], audio)
    clip = store.clips["vid9$_$07"]
    assert (clip.split, clip.group, clip.text) == ("test", "vid9", "hello")
    assert store.labels["mosi-gold"].counts() == {"Negative": 1, "Neutral": 1, "Positive": 1}
    assert store.features["mosi-vision-FRA"].spec.modality == "video"
    commit = store.commit
    import_mmsa(store, path, "mosi", CREATE, labels_as="mosi-gold")
    assert store.commit == commit


def test_a_hostile_mmsa_file_is_refused_and_stores_nothing(store: Store, tmp_path: Path) -> None:
    """The global it wanted is named; no clip, space or layer came to be; nothing ran."""

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "feature.pkl"
    path.write_bytes(pickle.dumps(mmsa(extra=Payload())))
    before = store.commit
    with pytest.raises(BadInput, match=r"feature.pkl asks for posix.system, which was not run"):
        import_mmsa(store, path, "mosi", CREATE)
    assert not (tmp_path / "ran").exists()
    assert store.commit == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": np.zeros((3, 5, 3))}, "3 audio features for 2 ids"),
        ({"id": ["x", "x"]}, "clip 'x' occurs twice"),
        ({"audio": [["a"], ["b"]]}, "audio holds list"),
        ({"audio": np.array([["a"], ["b"]])}, "is of type <U1"),
        ({"audio": 5}, r"feature.pkl cannot be read: .* it must have the layout that MMSA reads"),
    ],
)
def test_mmsa_files_that_are_not_whole(store: Store, tmp_path: Path, changes: Any, message: str) -> None:
    """What does not fit is named."""
    path = tmp_path / "feature.pkl"
    path.write_bytes(pickle.dumps(mmsa(**changes)))
    with pytest.raises(BadInput, match=message):
        import_mmsa(store, path, "mosi", CREATE)


def test_mmsa_annotations_must_be_there_and_new(store: Store, tmp_path: Path) -> None:
    """No annotations, or a layer of that name with others, is an error before anything is stored."""
    path = tmp_path / "feature.pkl"
    document = mmsa()
    for part in document.values():
        part.pop("annotations", None)
    path.write_bytes(pickle.dumps(document))
    with pytest.raises(BadInput, match="has no annotations"):
        import_mmsa(store, path, "mosi", CREATE, labels_as="gold")
    path.write_bytes(pickle.dumps(mmsa()))
    store.labels.add(LabelLayer.human("gold", ["x"], {"a": "x"}))
    with pytest.raises(NameTaken, match="label layer 'gold' already"):
        import_mmsa(store, path, "mosi", CREATE, labels_as="gold")
    assert len(store.features) == 0
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(BadInput, match="holds a list"):
        import_mmsa(store, path, "mosi", CREATE)


def save_labels(path: Path, **corpora: Any) -> Path:
    """Write a label .npz as MERTools does."""
    np.savez_compressed(path, **{name: np.array(corpus, dtype=object) for name, corpus in corpora.items()})
    return path


def test_mertools_labels_by_name_and_number(tmp_path: Path) -> None:
    """Names as they are, numbers through the class list, clips without a class left out."""
    path = save_labels(
        tmp_path / "l.npz",
        train_corpus={"a": {"emo": "happy", "val": 1.5}, "b": {"emo": "", "val": -10}},
        test1_corpus={"t": {"emo": 1}, "u": {"emo": -1}},
    )
    assert read_label_npz(path, classes=["sad", "happy"]) == {
        "train": {"a": "happy"},
        "test1": {"t": "happy"},
    }
    with pytest.raises(BadInput, match="gives classes as numbers; say what they mean: --classes"):
        read_label_npz(path)
    with pytest.raises(BadInput, match="class of clip 't' is 1; there are 1 classes"):
        read_label_npz(path, classes=["sad"])


def test_hostile_and_odd_label_files(tmp_path: Path) -> None:
    """Code in the dicts is refused by name; other contents are explained."""

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    with pytest.raises(
        BadInput, match=r"^\S+evil.npz, train_corpus.npy asks for posix.system, which was not"
    ):
        read_label_npz(save_labels(tmp_path / "evil.npz", train_corpus={"a": Payload()}))
    assert not (tmp_path / "ran").exists()
    np.savez(tmp_path / "plain.npz", train_corpus=np.ones(3))
    with pytest.raises(BadInput, match=r"^\S+plain.npz, train_corpus.npy holds float64\[3\] and no dict"):
        read_label_npz(tmp_path / "plain.npz")
    with pytest.raises(BadInput, match="is a ndarray and no dict"):
        read_label_npz(save_labels(tmp_path / "list.npz", train_corpus=[[1], [2, 3]]))
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"is not an .npz file"):
        read_label_npz(tmp_path / "no.npz")
    with pytest.raises(BadInput, match="holds no labels"):
        read_label_npz(save_labels(tmp_path / "none.npz", train_corpus={}))


def add_space(store: Store, name: str, arrays: dict[str, Any], dtype: str = "float32") -> None:
    """Write a space of our own."""
    first = next(iter(arrays.values()))
    level = "utt" if first.ndim == 1 else "frame"
    spec = SpaceSpec(name=name, modality="audio", level=level, row_shape=first.shape[-1:], dtype=dtype)  # type: ignore[arg-type]
    with store.features.writer(spec) as writer:
        for key, array in arrays.items():
            writer.add(key, array)


@pytest.mark.parametrize("form", ["mertools", "npz", "parquet"])
@pytest.mark.parametrize("level", ["utt", "frame"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_export_then_import_gives_the_same_bits(tmp_path: Path, form: str, level: str, dtype: str) -> None:
    """Any format, level and type, zero-length clips too."""
    store = Store.create(tmp_path / "store")
    store.clips.add([Clip(key=k, split=s) for k, s in (("a", "train"), ("b", "train"), ("c", "test"))])
    arrays = {k: v.astype(dtype) for k, v in (UTT if level == "utt" else {**FRA, "b": FRA["b"][:0]}).items()}
    name = "x-UTT" if level == "utt" else "x-FRA"
    add_space(store, name, arrays, dtype)
    other = Store.create(tmp_path / "other")
    added = 0
    for path in export_space(store, name, tmp_path / "out", form):
        source = open_source(form, path, member="features" if form == "parquet" else None)
        target = name if form != "parquet" else f"{path.name.split('-')[0]}-{name}"
        added += import_space(other, source, target, "audio", CREATE).added
        for key in source.keys:
            assert np.array_equal(other.features[target][key], store.features[name][key])
            assert other.features[target].spec.dtype == dtype
    assert added == 3


def test_exports_are_what_the_other_tools_read(store: Store, tmp_path: Path) -> None:
    """MERTools reads [D] and [T, D] by np.load; our .npz opens without pickles."""
    add_space(store, "u-UTT", UTT)
    add_space(store, "f-FRA", FRA)
    [folder_] = export_space(store, "u-UTT", tmp_path / "out", "mertools")
    assert folder_ == tmp_path / "out" / "u-UTT"
    assert np.array_equal(np.load(folder_ / "a.npy"), UTT["a"])
    [packed] = export_space(store, "f-FRA", tmp_path / "out", "npz", keys=["c", "a"])
    with np.load(packed, allow_pickle=False) as archive:
        assert archive["keys"].tolist() == ["c", "a"]
        assert archive["offsets"].tolist() == [0, 5, 8]
        assert np.array_equal(archive["data"], np.concatenate([FRA["c"], FRA["a"]]))


def test_parquet_loads_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset(folder)` gives the splits, features, transcripts and labels, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    store = Store.create(tmp_path / "store")
    store.clips.add(
        [Clip(key=k, split=s, text=k) for k, s in (("a", "train"), ("b", "unlabeled"), ("c", "test"))]
    )
    store.labels.add(LabelLayer.human("gold", None, {"a": "sad", "c": "happy"}))
    add_space(store, "f-FRA", FRA, "float16")
    export_space(store, "f-FRA", tmp_path / "out", "parquet", labels="gold")
    import datasets

    loaded = datasets.load_dataset(str(tmp_path / "out" / "f-FRA"), cache_dir=str(tmp_path / "cache"))
    assert {split: part["key"][:] for split, part in loaded.items()} == {
        "train": ["a"],
        "unlabeled": ["b"],
        "test": ["c"],
    }
    row = loaded["test"].with_format("numpy")[0]
    assert np.array_equal(np.stack(row["features"]).astype(np.float16), FRA["c"].astype(np.float16))
    assert (row["label"], row["text"], loaded["unlabeled"][0]["label"]) == ("happy", "c", None)


def test_exports_appear_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    """What is there is not touched, an unknown key or layer leaves nothing behind."""
    add_space(store, "u-UTT", {**UTT, "../evil": UTT["a"]})
    out = tmp_path / "out"
    with pytest.raises(BadName, match=r"'../evil' cannot be a file name; export to npz or parquet"):
        export_space(store, "u-UTT", out, "mertools")
    assert not (tmp_path / "evil.npy").exists()
    with pytest.raises(UnknownName):
        export_space(store, "u-UTT", out, "npz", keys=["a", "q"])
    with pytest.raises(UnknownName, match="no label layer"):
        export_space(store, "u-UTT", out, "parquet", labels="q")
    with pytest.raises(UnknownName, match="no feature space named 'u-UT'; did you mean 'u-UTT'"):
        export_space(store, "u-UT", out, "npz")
    with pytest.raises(UnknownName, match="no format to export named 'csv'"):
        export_space(store, "u-UTT", out, "csv")
    with pytest.raises(BadInput, match="no clips to export"):
        export_space(store, "u-UTT", out, "npz", keys=[])
    assert list(out.iterdir()) == []
    export_space(store, "u-UTT", out, "npz")
    with pytest.raises(BadInput, match=r"u-UTT.npz is there already"):
        export_space(store, "u-UTT", out, "npz")
    with pytest.raises(BadInput, match="cannot write"):
        export_space(store, "u-UTT", out / "u-UTT.npz", "npz")


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), size=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_clip_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int
) -> None:
    """However small the batch, clips come whole, once and in order."""

    class Space:
        spec = SpaceSpec(name="x", modality="audio", level="frame", row_shape=(2,))

        def lengths(self, keys: list[str]) -> Any:
            return np.array([lengths[int(k)] for k in keys])

        def read(self, keys: list[str]) -> list[str]:
            return keys

    keys = [str(i) for i in range(len(lengths))]
    assert [key for some, _ in batches(Space(), keys, size) for key in some] == keys  # type: ignore[arg-type]


def test_views_share_one_block_and_torch_shares_it_too(store: Store) -> None:
    """No copy per clip: all arrays, and tensors made of them, lie in the memory that was read."""
    torch = pytest.importorskip("torch")
    add_space(store, "f-FRA", FRA)
    found = views(store.features["f-FRA"], ["c", "a"])
    assert np.array_equal(found["a"], FRA["a"])
    assert found["a"].base is found["c"].base is not None
    assert torch.from_numpy(found["c"]).data_ptr() == found["c"].ctypes.data
