"""Lineage: from a round of labels down to media and adapters, and what stands on what."""

import json
import re

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import StoreError, UnknownName
from mer_featurestore.lineage import ancestors, dependents, find, lineage
from mer_featurestore.maintenance import remove


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store in which round1 came from a run on a space of an adapter that was tuned on gold."""
    store = Store.create(tmp_path_factory.mktemp("lineage") / "store")
    store.clips.add([Clip(key="a", text="a", split="train")])
    store.labels.add(LabelLayer.human("gold", ("sad", "happy"), {"a": "sad"}))
    store.adapters.add("lora", {"card.json": b"{}"}, parents=("labels/gold",), attrs={"encoder": "hubert"})
    made_by = {"plugin": "hubert-lora"}
    spec = SpaceSpec(
        name="h-UTT",
        modality="audio",
        level="utt",
        row_shape=(4,),
        made_by=made_by,
        parents=("adapters/lora",),
    )
    with store.features.writer(spec) as writer:
        writer.add("a", np.ones(4))
    store.runs.add("agt-1", {"config.json": b"{}"}, parents=("features/h-UTT", "labels/gold"))
    classes = ("sad", "happy")
    store.labels.add(LabelLayer.human("round1", classes, {}, parents=("labels/gold", "runs/agt-1")))
    return store


def test_the_tree_goes_down_to_media_and_labels(store):
    """The tree names every layer, run, space and adapter in between, in order, and ends at the media."""
    text = lineage(store.snapshot, "round1").to_text()
    shape = [re.match(r"[│├└─ ]*\S+", line)[0] for line in text.splitlines()]
    assert shape == [
        "labels/round1",
        "├─ labels/gold",
        "└─ runs/agt-1",
        "   ├─ features/h-UTT",
        "   │  ├─ adapters/lora",
        "   │  │  └─ labels/gold",
        "   │  └─ media/audio",
        "   └─ labels/gold",
    ]
    assert "hubert-lora, utt, 4, 1 clip  commit 4" in text
    assert "hubert, 1 file" in text


def test_json_holds_the_same_tree(store):
    """The JSON form nests as the tree does and survives a round trip through text."""
    tree = lineage(store.snapshot, "round1")
    document = json.loads(json.dumps(tree.to_json()))
    assert document["ref"] == "labels/round1"
    assert [parent["ref"] for parent in document["parents"]] == ["labels/gold", "runs/agt-1"]
    assert document["parents"][1]["parents"][0]["parents"][1]["ref"] == "media/audio"
    assert document["commit"] == 6


def test_dot_has_each_thing_and_each_arrow_once(store):
    """The DOT form draws gold once although three things stand on it, and quotes what needs quoting."""
    dot = lineage(store.snapshot, "round1").to_dot()
    assert dot.startswith("digraph")
    assert dot.count("{") == dot.count("}") == 1
    assert dot.count('"labels/gold" [') == 1
    assert dot.count('-> "labels/gold";') == 3
    assert dot.count("->") == 7


def test_ancestors_show_the_leak(store):
    """A run sees that its space came from an adapter that was tuned on the labels it validates on."""
    assert "labels/gold" in ancestors(store.snapshot, "features/h-UTT")
    assert ancestors(store.snapshot, "gold") == set()


def test_dependents_are_direct_and_once(store):
    """What stands on a thing is named once, in order of commits."""
    assert dependents(store.snapshot, "labels/gold") == ["adapters/lora", "runs/agt-1", "labels/round1"]
    assert dependents(store.snapshot, "labels/round1") == []


def test_a_removed_parent_is_shown_as_missing(store, tmp_path):
    """After a forced removal the tree still names the parent and says that it is gone."""
    store = Store.create(tmp_path / "s")
    store.runs.add("a", {})
    store.adapters.add("b", {}, parents=("runs/a",))
    remove(store, "a", force=True)
    tree = lineage(store.snapshot, "b")
    assert tree.parents[0].missing
    assert "runs/a  not in the store any more" in tree.to_text()
    assert "style=dashed" in tree.to_dot()


def test_names_as_people_type_them(store, tmp_path):
    """A bare name works when one kind has it; else the choice, or a suggestion, is the remedy."""
    assert find(store.snapshot, "agt-1") == "runs/agt-1"
    assert find(store.snapshot, "runs/agt-1") == "runs/agt-1"
    with pytest.raises(UnknownName, match="did you mean 'round1'"):
        find(store.snapshot, "rond1")
    with pytest.raises(UnknownName, match="labels/gold"):
        find(store.snapshot, "label/gold")
    store = Store.create(tmp_path / "s")
    store.runs.add("x", {})
    store.adapters.add("x", {})
    with pytest.raises(StoreError, match="runs/x, adapters/x"):
        find(store.snapshot, "x")
