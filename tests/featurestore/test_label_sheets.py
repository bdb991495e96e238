"""Label tables in and out: round trips, soft labels, and complaints with their place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.ingest import labels_for_clips
from mer_featurestore.interchange.label_export import export_labels
from mer_featurestore.label_sheets import read_labels, write_labels

words = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8)


@st.composite
def layers(draw: st.DrawFn) -> LabelLayer:
    """Return any layer: odd names, soft labels, dropped rows, votes."""
    classes = draw(st.lists(words.filter(str.isprintable), min_size=1, max_size=4, unique=True))
    keys = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    members = draw(st.lists(words, max_size=2, unique=True))
    n, C, M = len(keys), len(classes), len(members)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    label = rng.integers(-1, C, n)
    return LabelLayer(
        name="x",
        classes=tuple(classes),
        keys=tuple(keys),
        label=label,
        probs=rng.dirichlet(np.ones(C), n).astype(np.float32),
        confidence=rng.random(n).astype(np.float32),
        source=rng.integers(0, 2, n),
        votes=rng.integers(-1, C, (n, M)),
        members=tuple(members),
        reason=tuple(draw(st.lists(st.sampled_from(["", "why, so", 'a "b"']), min_size=n, max_size=n))),
        kept=(label >= 0) & rng.integers(0, 2, n).astype(bool),
    )


@given(layer=layers())
@settings(max_examples=60, deadline=None)
def test_csv_reads_back_the_same_layer(tmp_path_factory: pytest.TempPathFactory, layer: LabelLayer) -> None:
    """Export, then import: every array to the last bit, every name, the class order."""
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    write_labels(layer, path)
    again = read_labels(path, "x", classes=layer.classes).layer
    assert replace(again, attrs={}) == layer
    assert read_labels(path, "x").layer.classes == layer.classes


def write(folder: Path, text: str) -> Path:
    """Write labels.csv."""
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_soft_labels_give_probabilities_and_a_label(tmp_path: Path) -> None:
    """Columns p_<class> in any order are matched by name; the largest is the label."""
    layer = read_labels(write(tmp_path, "key,p_sad,p_happy\na,0.25,0.75\nb,1,0\n"), "soft").layer
    assert layer.classes == ("sad", "happy")
    assert (layer["a"], layer["b"]) == ("happy", "sad")
    assert layer.confidence.tolist() == [0.75, 1]
    wider = read_labels(tmp_path / "labels.csv", "soft", classes=["happy", "other", "sad"]).layer
    assert wider.probs.tolist() == [[0.75, 0, 0.25], [0, 0, 1]]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    """The same columns, numbers kept exactly."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"key": ["a", "b"], "p_sad": [0.1, 1.0], "p_happy": [0.9, 0.0], "extra": [None, 1]})
    pq.write_table(table, tmp_path / "l.parquet")
    layer = read_labels(tmp_path / "l.parquet", "soft").layer
    assert layer.probs.tolist() == np.array([[0.1, 0.9], [1, 0]], np.float32).tolist()
    nested = pa.table({"key": ["a"], "label": [["x"]]})
    pq.write_table(nested, tmp_path / "n.parquet")
    with pytest.raises(BadInput, match="column 'label' is not flat"):
        read_labels(tmp_path / "n.parquet", "soft")
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(BadInput, match="is not a Parquet file"):
        read_labels(tmp_path / "no.parquet", "soft")


BAD = {
    "no key": ("id,label\na,x\n", "has no column key"),
    "no label": ("key,foo\na,x\n", "no column label or emotion and no p_<class> columns"),
    "only empty": ("key,label\na,\n", "no labelled row"),
    "outside": (
        "key,emotion\na,sad\nb,hapy\n",
        "line 3, column emotion: label 'hapy' .*did you mean 'happy'",
    ),
    "twice": ("key,label\na,sad\na,sad\n", "line 3, column key: key 'a' is already on line 2"),
    "empty key": ("key,label\n,sad\n", "line 2, column key: .* it is empty"),
    "sum": ("key,p_happy,p_sad\na,0.9,0.9\n", "line 2: the p_ columns sum to 1.800"),
    "no number": ("key,p_happy,p_sad\na,x,1\n", "line 2, column p_happy: 'x' is not between 0 and 1"),
    "nan": ("key,p_happy,p_sad\na,nan,1\n", "line 2, column p_happy: 'nan' is not between 0 and 1"),
    "foreign p": ("key,p_happy,p_bored\na,0,1\n", "column p_bored: not one of the classes"),
    "source": ("key,label,source\na,sad,robot\n", "column source: 'robot' is not understood; write human or"),
    "kept": ("key,label,kept\na,sad,maybe\n", "column kept: 'maybe' is not understood"),
    "confidence": ("key,label,confidence\na,sad,2\n", "column confidence: '2' is not between 0 and 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, case: str) -> None:
    """File, line, column and what to do."""
    text, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        read_labels(write(tmp_path, text), "x", classes=["happy", "sad"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with two clips of split train and one of test."""
    store = Store.create(tmp_path / "store")
    store.clips.add([Clip(key=k, split=s) for k, s in (("a", "train"), ("b", "train"), ("t", "test"))])
    return store


def test_labels_of_other_splits_stay_hidden(store: Store, tmp_path: Path) -> None:
    """Only clips of the named splits get labels, and the classes are those of the whole table."""
    sheet = read_labels(write(tmp_path, "key,emotion\na,sad\nb,happy\nt,angry\n"), "gold")
    gold = labels_for_clips(store, sheet, splits=["train"])
    assert (gold.keys, gold.classes) == (("a", "b"), ("angry", "happy", "sad"))
    assert labels_for_clips(store, sheet).keys == ("a", "b", "t")
    with pytest.raises(UnknownName, match="no split named 'tests'; did you mean 'test'"):
        labels_for_clips(store, sheet, splits=["tests"])


def test_clips_must_be_in_the_catalogue(store: Store, tmp_path: Path) -> None:
    """A stranger is an error with its line, or left out on request; nothing left is an error."""
    sheet = read_labels(write(tmp_path, "key,emotion\na,sad\nzz,happy\n"), "gold")
    with pytest.raises(BadInput, match=r"line 3: clip 'zz' is not in the catalogue; .*--ignore-unknown"):
        labels_for_clips(store, sheet)
    assert labels_for_clips(store, sheet, ignore_unknown=True).keys == ("a",)
    with pytest.raises(BadInput, match="no label for a clip of split test"):
        labels_for_clips(store, sheet, splits=["test"], ignore_unknown=True)


def test_mertools_labels_go_out_and_in(store: Store, tmp_path: Path) -> None:
    """The .npz has a dict per split as that toolkit reads it, and comes back the same."""
    store.labels.add(LabelLayer.human("gold", None, {"a": "sad", "t": "happy"}))
    path = tmp_path / "label.npz"
    assert export_labels(store, "gold", path) == 2
    with np.load(path, allow_pickle=True) as archive:  # as MERTools does; the file is our own
        assert archive["train_corpus"].tolist() == {"a": {"emo": "sad", "val": -10}}
        assert archive["test_corpus"].tolist() == {"t": {"emo": "happy", "val": -10}}
    again = read_labels(path, "again").layer
    assert {key: again[key] for key in again.keys} == {"a": "sad", "t": "happy"}


def test_export_chooses_by_suffix_and_names_formats(store: Store, tmp_path: Path) -> None:
    """.csv and .npz decide; another suffix needs --format; nothing to write is an error."""
    store.labels.add(LabelLayer.human("gold", ["x"], {"a": "x"}))
    store.labels.add(LabelLayer.human("none", ["x"], {}, parents=["labels/gold"]))
    with pytest.raises(UnknownName, match=r"no label format named '.txt'; there are: csv, mertools"):
        export_labels(store, "gold", tmp_path / "l.txt")
    with pytest.raises(BadInput, match="no labels to export"):
        export_labels(store, "none", tmp_path / "l.csv")
    assert export_labels(store, "none", tmp_path / "l.csv", resolved=True) == 1
    assert read_labels(tmp_path / "l.csv", "again").layer["a"] == "x"
    with pytest.raises(BadInput, match="cannot write"):
        export_labels(store, "gold", tmp_path / "l.csv" / "x.csv")
