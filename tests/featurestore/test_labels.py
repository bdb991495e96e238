"""Label layers: what one may hold, that it never changes, and what layers say when laid over each other."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import BadInput, BadName, NameTaken, UnknownName
from mer_featurestore.label_report import diff
from mer_featurestore.labels import HUMAN, NO_CLASS, PSEUDO
from mer_featurestore.resolve import flatten, resolve

CLASSES = ("angry", "happy", "sad")


def pseudo(name: str, rows: dict[str, tuple[str | None, bool]], **changes: Any) -> LabelLayer:
    """Return a pseudo-label layer of two members: key -> (class, kept)."""
    n = len(rows)
    label = np.array([NO_CLASS if c is None else CLASSES.index(c) for c, _ in rows.values()], np.int16)
    probs = np.zeros((n, 3), np.float32)
    probs[np.arange(n), label] = 1
    facts: dict[str, Any] = {
        "classes": CLASSES,
        "keys": tuple(rows),
        "label": label,
        "probs": probs,
        "confidence": np.full(n, 0.9, np.float32),
        "source": np.full(n, PSEUDO, np.uint8),
        "votes": np.stack([label, np.full(n, NO_CLASS, np.int16)], axis=1),
        "members": ("runs/agt-1", "runs/audio-1"),
        "reason": tuple("" if kept else "below the threshold" for _, kept in rows.values()),
        "kept": np.array([kept for _, kept in rows.values()], np.bool_),
    }
    return LabelLayer(name=name, **{**facts, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with the layers gold and, over it, round1."""
    store = Store.create(tmp_path / "store")
    store.labels.add(LabelLayer.human("gold", CLASSES, {"a": "sad", "b": "happy"}))
    rows = {"a": ("angry", True), "c": ("sad", True), "d": ("happy", False), "e": (None, False)}
    store.labels.add(pseudo("round1", rows, parents=("labels/gold",), attrs={"threshold": 0.9}))
    return store


def test_a_layer_comes_back_as_it_was(store: Store) -> None:
    """Every array, name and attribute survives, also in a reopened store."""
    again = Store.open(store.url).labels
    assert list(again) == ["gold", "round1"]
    assert again["gold"] == LabelLayer.human("gold", CLASSES, {"a": "sad", "b": "happy"})
    assert again["round1"] == store.labels["round1"]
    assert again["round1"]["c"] == "sad"
    assert again["round1"]["e"] is None


def test_a_layer_is_named_once_and_never_changes(store: Store) -> None:
    """The same name is refused, arrays are read-only, an empty layer is a layer."""
    with pytest.raises(NameTaken, match="'gold' already, and it never changes"):
        store.labels.add(LabelLayer.human("gold", CLASSES, {"z": "sad"}))
    with pytest.raises(ValueError, match="read-only"):
        store.labels["gold"].label[0] = 1
    store.labels.add(LabelLayer.human("none", CLASSES, {}))
    assert Store.open(store.url).labels["none"].counts() == {"angry": 0, "happy": 0, "sad": 0}


def test_of_two_writers_with_one_name_the_later_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it looked, and wrote its files, before the other committed: those files are swept."""
    late = Store.open(store.url)
    create = late.storage.create

    def overtaken(name: str, data: bytes) -> None:
        if "x" not in Store.open(store.url).labels:
            store.labels.add(LabelLayer.human("x", CLASSES, {"a": "sad"}))
        create(name, data)

    monkeypatch.setattr(late.storage, "create", overtaken)
    with pytest.raises(NameTaken, match="'x' already"):
        late.labels.add(LabelLayer.human("x", CLASSES, {"a": "angry"}))
    again = Store.open(store.url)
    assert again.labels["x"]["a"] == "sad"
    named = {file for entry in again.snapshot.entries("labels") for file in entry.file_names()}
    assert set(again.storage.list("labels")) == named


def test_unknown_layers_and_parents_are_corrected(store: Store) -> None:
    """A layer, or a parent, that is not there gets a suggestion; nothing is stored."""
    with pytest.raises(UnknownName, match="no label layer named 'rond1'; did you mean 'round1'"):
        store.labels["rond1"]
    with pytest.raises(UnknownName, match="'labels/gld'; did you mean 'labels/gold'"):
        store.labels.add(LabelLayer.human("x", CLASSES, {}, parents=["labels/gld"]))
    with pytest.raises(BadName):
        store.labels.add(LabelLayer.human("../x", CLASSES, {}))
    assert store.commit == 2


def test_a_parent_must_not_have_more_classes(store: Store) -> None:
    """Otherwise what lies below could not be said in the classes on top."""
    small = LabelLayer.human("small", ["sad", "angry"], {"a": "sad"}, parents=["labels/gold"])
    with pytest.raises(BadInput, match="'gold' has the class 'happy', which 'small' over it does not have"):
        store.labels.add(small)


def test_facts_are_in_the_journal(store: Store) -> None:
    """Listing layers reads no layer: counts, parents, members and parameters are facts of the commit."""
    for file in Path(store.url).glob("labels/*"):
        file.rename(file.with_name("hidden-" + file.name))
    facts = Store.open(store.url).labels.facts("round1")
    assert (facts["rows"], facts["kept"], facts["counts"]) == (4, 2, {"angry": 1, "happy": 0, "sad": 1})
    assert (facts["parents"], facts["attrs"], facts["commit"]) == (["labels/gold"], {"threshold": 0.9}, 2)


def test_reprs_and_pandas_show_what_is_inside(store: Store) -> None:
    """Sources, counts, parents at a glance; a table with classes by name, and votes."""
    assert repr(store.labels["round1"]) == (
        "<LabelLayer 'round1': 2 pseudo labels, 2 dropped; angry=1 happy=0 sad=1 over labels/gold>"
    )
    assert "round1: 2 of 4 clips; angry=1 happy=0 sad=1 over labels/gold" in repr(store.labels)
    assert repr(store.labels.resolve("round1")) == (
        "<Resolved 'round1': 2 human + 1 pseudo labels; angry=0 happy=1 sad=2>"
    )
    frame = store.labels["round1"].to_pandas()
    assert frame.loc["c", "label"] == "sad"
    assert frame.loc["c", "vote_runs/agt-1"] == "sad"
    assert frame["label"].isna().tolist() == [False, False, False, True]
    assert list(frame.loc["d", ["p_angry", "p_happy", "p_sad"]]) == [0, 1, 0]


def test_human_labels_win_and_only_kept_rows_count(store: Store) -> None:
    """round1 thinks otherwise of `a` and dropped `d`; neither shows."""
    resolved = store.labels.resolve("round1")
    assert {key: resolved[key] for key in resolved} == {"a": "sad", "b": "happy", "c": "sad"}
    assert resolved.layer_of == ("gold", "gold", "round1")
    assert resolved.source.tolist() == [HUMAN, HUMAN, PSEUDO]
    with pytest.raises(UnknownName):
        resolved["d"]


def test_a_later_round_that_drops_a_clip_takes_it_out(store: Store) -> None:
    """The nearest layer that judged a clip decides; what it did not judge, older layers say."""
    rows = {"c": ("happy", False), "f": ("angry", True)}
    store.labels.add(pseudo("round2", rows, parents=("labels/round1",)))
    assert set(store.labels.resolve("round2")) == {"a", "b", "f"}
    assert [layer.name for layer in store.labels.stack("round2")] == ["round2", "round1", "gold"]


def test_classes_are_matched_by_name() -> None:
    """A layer below with another class order is translated, labels and probabilities."""
    below = LabelLayer.human("gold", ["sad", "angry"], {"a": "angry"})
    top = LabelLayer.human("top", CLASSES, {"b": "happy"})
    resolved = resolve([top, below])
    assert (resolved["a"], resolved["b"]) == ("angry", "happy")
    assert resolved.probs.tolist() == [[1, 0, 0], [0, 1, 0]]


@given(label=st.lists(st.sampled_from([*CLASSES, None]), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_what_cannot_be_kept_together_is_refused(label: list[str | None]) -> None:
    """A kept row without a class is an error; dropped it is fine."""
    rows = {f"k{i}": (c, True) for i, c in enumerate(label)}
    if None in label:
        with pytest.raises(BadInput, match="is kept and has no class"):
            pseudo("x", rows, probs=np.full((len(rows), 3), 1 / 3, np.float32))
    else:
        assert sum(pseudo("x", rows).counts().values()) == len(label)
    dropped = pseudo("x", {k: (c, False) for k, (c, _) in rows.items()}, probs=np.zeros((len(rows), 3)))
    assert sum(dropped.counts().values()) == 0


GOOD = pseudo("x", {"a": ("sad", True), "b": ("happy", True)})
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "label outside": ({"label": np.array([0, 3])}, "label of clip 'b' is 3; it must lie between -1 and 2"),
    "label too large for int16": ({"label": np.array([0, 70000])}, "label of clip 'b' is 70000"),
    "float labels": ({"label": np.array([0.0, 1.0])}, "label has shape .2,., dtype float64"),
    "probs shape": ({"probs": np.ones((2, 2))}, r"probs has shape \(2, 2\); it must be \(2, 3\)"),
    "probs sum": ({"probs": np.array([[1, 0, 0], [0.9, 0.9, 0]])}, "of clip 'b' sum to 1.800"),
    "probs nan": ({"probs": np.array([[np.nan, 0, 0], [1, 0, 0]])}, "probs of clip 'a' is nan"),
    "confidence": ({"confidence": np.array([0.5, -1])}, "confidence of clip 'b' is -1.0"),
    "vote outside": ({"votes": np.array([[0, 0], [0, 9]])}, "votes of clip 'b' is 9"),
    "votes of strangers": ({"members": ("one",)}, "votes has shape"),
    "source": ({"source": np.array([0, 2])}, "source of clip 'b' is 2"),
    "clip twice": ({"keys": ("a", "a")}, "clip 'a' occurs more than once"),
    "reasons": ({"reason": ("",)}, "1 reasons for 2 clips"),
    "class twice": ({"classes": ("sad", "sad", "x")}, "class 'sad' is in the class list twice"),
    "class empty": ({"classes": ("sad", "", "x")}, "class name '' cannot be used"),
    "no classes": ({"classes": ()}, "the class list is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_parts_that_do_not_fit_are_refused(case: str) -> None:
    """The message names the layer or the class, and the clip where there is one."""
    changes, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        replace(GOOD, **changes)


def test_attributes_must_be_json() -> None:
    """NaN and objects are refused when the layer is made, not when it is written."""
    with pytest.raises(BadInput, match="attributes are no JSON"):
        replace(GOOD, attrs={"threshold": float("nan")})


def test_a_human_label_outside_the_classes_names_key_and_class() -> None:
    """With the nearest class there is."""
    with pytest.raises(BadInput, match=r"label 'hapy' of clip 'k' .*did you mean 'happy'"):
        LabelLayer.human("x", CLASSES, {"k": "hapy"})


def test_equality_sees_every_field() -> None:
    """Two layers are equal only when every field is."""
    assert replace(GOOD) == GOOD
    changed = {
        "name": "y", "classes": ("angry", "happy", "sorry"), "keys": ("a", "z"), "label": np.array([2, 2]),
        "probs": np.array([[0, 0, 1], [1, 0, 0]]), "confidence": np.array([0.9, 1]),
        "source": np.array([0, 1]),
        "votes": np.array([[0, 0], [0, 0]]), "members": ("p", "q"), "reason": ("", "r"),
        "kept": np.array([True, False]), "parents": ("labels/gold",), "attrs": {"a": 1},
    }  # fmt: skip
    assert set(changed) == {f.name for f in fields(LabelLayer)}
    for name, value in changed.items():
        assert replace(GOOD, **{name: value}) != GOOD, name
    assert (GOOD == "x") is False


keys = st.sampled_from("abcdefgh")
rows = st.dictionaries(keys, st.tuples(st.sampled_from(CLASSES), st.booleans()), max_size=6)
humans = st.dictionaries(keys, st.sampled_from(CLASSES), max_size=6)


@st.composite
def stacks(draw: st.DrawFn) -> list[LabelLayer]:
    """Return one to four layers, human and pseudo mixed."""
    layers: list[LabelLayer] = []
    for i in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            layers.append(LabelLayer.human(f"h{i}", CLASSES, draw(humans)))
        else:
            layers.append(pseudo(f"p{i}", draw(rows)))
    return layers


@given(stacks())
@settings(max_examples=150, deadline=None)
def test_resolve_keeps_its_promises(stack: list[LabelLayer]) -> None:
    """A human label always wins; else the nearest layer that judged the clip decides; keys are sorted."""
    resolved = resolve(stack)
    assert list(resolved.keys) == sorted(resolved.keys)
    for key in {key for layer in stack for key in layer.keys}:
        certain = [layer for layer in stack if key in layer and layer.source[layer.row(key)] == HUMAN]
        speaking = certain or [layer for layer in stack if key in layer]
        first = speaking[0]
        expected = first[key] if first.kept[first.row(key)] else None
        assert resolved.get(key) == expected
        if expected is not None:
            assert resolved.layer_of[resolved.row(key)] == first.name


@given(stacks(), stacks())
@settings(max_examples=100, deadline=None)
def test_diff_is_symmetric_and_counts_every_clip(one: list[LabelLayer], two: list[LabelLayer]) -> None:
    """Backwards, additions are removals and flips turn round; forwards, every clip is in one place."""
    a, b = resolve(one), resolve(two)
    there, back = diff(a, b), diff(b, a)
    assert (there.added, there.removed) == (back.removed, back.added)
    assert there.flips == {key: (old, new) for key, (new, old) in back.flips.items()}
    assert (there.matrix == back.matrix.T).all()
    assert len(there.removed) + there.matrix.sum() == len(a)
    assert len(there.added) + there.matrix.sum() == len(b)
    assert not diff(a, a)
    per_class = there.per_class().values()
    assert (
        sum(c["flipped_to"] for c in per_class)
        == len(there.flips)
        == sum(c["flipped_from"] for c in per_class)
    )


def test_diff_of_layers_with_other_classes() -> None:
    """Classes are matched by name; those of only one layer appear, the first layer's order first."""
    a = flatten(LabelLayer.human("a", ["sad", "happy"], {"x": "sad", "y": "happy"}))
    b = flatten(LabelLayer.human("b", ["happy", "worried", "sad"], {"x": "worried", "y": "happy"}))
    changes = diff(a, b)
    assert changes.classes == ("sad", "happy", "worried")
    assert changes.flips == {"x": ("sad", "worried")}
    assert changes.matrix.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_blame_tells_the_whole_story(store: Store) -> None:
    """Each layer that speaks of the clip, its votes, and what became of what it said."""
    told = store.labels.blame("a")
    assert (told.label, told.decided_by) == ("sad", "gold")
    assert [(s.layer, s.label, s.verdict) for s in told.sayings] == [
        ("round1", "angry", "overruled by gold (human)"),
        ("gold", "sad", "decides"),
    ]
    assert told.sayings[0].votes == {"runs/agt-1": "angry", "runs/audio-1": None}
    dropped = store.labels.blame("d", "round1")
    assert (dropped.label, dropped.sayings[0].verdict) == (None, "dropped")
    assert dropped.sayings[0].reason == "below the threshold"
    with pytest.raises(UnknownName, match="no clip in label layer 'round1' or what it stands on named 'q'"):
        store.labels.blame("q")


def test_blame_names_a_newer_round_that_dropped_the_clip(store: Store) -> None:
    """What an older round kept is overruled by the newer one's dropping it; agreement is named too."""
    store.labels.add(pseudo("round2", {"c": ("sad", False), "f": ("sad", True)}, parents=("labels/round1",)))
    verdicts = [s.verdict for s in store.labels.blame("c", "round2").sayings]
    assert verdicts == ["dropped", "overruled by round2, which dropped the clip"]
    store.labels.add(pseudo("round3", {"f": ("sad", True)}, parents=("labels/round2",)))
    assert [s.verdict for s in store.labels.blame("f").sayings] == ["decides", "agrees with round3"]


def test_blame_looks_under_the_newest_layer_that_knows_the_clip(store: Store) -> None:
    """A newer layer of other clips, such as test labels for scoring, does not hide what is said of a clip."""
    before = store.labels.blame("a")
    store.labels.add(LabelLayer.human("truth", ["sad", "angry"], {"f": "sad"}))
    assert store.labels.blame("a") == before
    assert store.labels.blame("f").layer == "truth"
    with pytest.raises(UnknownName, match="label layer 'truth'"):
        store.labels.blame("q")


def test_blame_without_layers_says_how_to_get_one(tmp_path: Path) -> None:
    """An empty store has no newest layer."""
    with pytest.raises(UnknownName, match="mer-fs labels import"):
        Store.create(tmp_path / "s").labels.blame("a")


def test_stats_are_what_they_say() -> None:
    """Counts, entropies in bits, agreement of members with the label, by hand."""
    layer = pseudo(
        "x",
        {"a": ("sad", True), "b": ("sad", True), "c": ("happy", True), "d": ("happy", False)},
        probs=np.array([[0, 0, 1], [0.5, 0, 0.5], [0, 1, 0], [0, 1, 0]]),
        votes=np.array([[2, 2], [2, 0], [1, -1], [0, 0]]),
        confidence=np.array([1, 0.5, 0.9, 0.1]),
    )
    found = layer_stats(layer)
    assert (found.rows, found.kept, found.counts) == (4, 3, {"angry": 0, "happy": 1, "sad": 2})
    assert found.dropped == {"below the threshold": 1}
    assert found.entropy == pytest.approx(1 / 3)
    assert found.class_entropy == pytest.approx(0.9182958)
    assert found.confidence == pytest.approx({"min": 0.5, "median": 0.9, "mean": 0.8})
    assert found.members["runs/agt-1"].agreement == 1
    assert (found.members["runs/audio-1"].voted, found.members["runs/audio-1"].abstained) == (2, 1)
    assert found.members["runs/audio-1"].agreement == 0.5
    assert found.unanimous == pytest.approx(2 / 3)


def test_stats_of_an_empty_layer() -> None:
    """No rows, no members: zeros and NaN, no warning and no error."""
    found = layer_stats(LabelLayer.human("x", CLASSES, {}))
    assert (found.rows, found.entropy, found.class_entropy, found.confidence) == (0, 0, 0, {})
    assert np.isnan(found.unanimous)


def layer_stats(layer: LabelLayer) -> Any:
    """Return the statistics of a layer."""
    from mer_featurestore.label_report import stats

    return stats(layer)
