"""Clips in a store: adding, updating, selecting, and ingesting together with labels in one commit."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, Store
from mer_featurestore.catalogue import read_catalogue
from mer_featurestore.clips import AddReport
from mer_featurestore.errors import BadInput, BadName, Damaged, NameTaken, StoreError, UnknownName
from mer_featurestore.groups import find_backend
from mer_featurestore.ingest import ingest, labels_for_clips
from mer_featurestore.label_sheets import read_labels

CLIPS = (
    Clip(key="a", split="train", corpus="x", speaker="s1", group="g", audio="/a.wav", text="", duration=1.5),
    Clip(key="b", split="test", corpus="x", video="/b.mp4", content_hash="00ff"),
    Clip(key="ключ/../c", split="train", corpus="y", text="two\nlines \U0001f600"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store.create(tmp_path / "store")


def test_clips_come_back_as_they_were(store: Store) -> None:
    """Every field survives, None and "" stay apart, order is that of adding, also in a reopened store."""
    assert store.clips.add(CLIPS) == AddReport(3, 0, 0)
    again = Store.open(store.url)
    assert tuple(again.clips.values()) == tuple(store.clips.values()) == CLIPS


def test_adding_again_changes_nothing(store: Store) -> None:
    """The same rows make no commit; a row without hash or with the same one is the same row."""
    store.clips.add(CLIPS)
    assert store.clips.add([*CLIPS, replace(CLIPS[1], content_hash="")][:3]) == AddReport(0, 3, 0)
    assert store.clips.add([replace(CLIPS[1], content_hash="")]) == AddReport(0, 1, 0)
    assert store.commit == 1


def test_a_differing_row_is_refused_and_shown(store: Store) -> None:
    """Both values are named, and nothing of the whole call is stored."""
    store.clips.add(CLIPS)
    with pytest.raises(BadInput, match=r"clip 'a' .*: split was 'train' and is now 'test'; add --update"):
        store.clips.add([Clip(key="new"), replace(CLIPS[0], split="test")])
    assert "new" not in store.clips
    assert store.commit == 1


def test_update_takes_the_new_row_in_its_old_place(store: Store) -> None:
    """The row is replaced, its content hash kept while its content is the same, the past stays readable."""
    store.clips.add(CLIPS)
    assert store.clips.add([replace(CLIPS[1], split="train", content_hash="")], update=True) == AddReport(
        0, 0, 1
    )
    assert list(store.clips) == [clip.key for clip in CLIPS]
    assert (store.clips["b"].split, store.clips["b"].content_hash) == ("train", "00ff")
    assert Store.open(store.url, at=1).clips["b"].split == "test"
    store.clips.add([replace(CLIPS[1], video="/other.mp4", content_hash="")], update=True)
    assert store.clips["b"].content_hash == ""


def test_hostile_and_doubled_keys_are_refused(store: Store) -> None:
    """Keys that cannot be stored, or come twice, end the call before anything is written."""
    with pytest.raises(BadName):
        store.clips.add([Clip(key="")])
    with pytest.raises(BadInput, match="clip 'a' is given 2 times"):
        store.clips.add([Clip(key="a"), Clip(key="a")])
    assert len(store.clips) == 0


def test_select_narrows_and_names_what_is_unknown(store: Store) -> None:
    """By split, corpus, keys (in their order) and modality; unknown names get suggestions."""
    store.clips.add(CLIPS)
    assert [c.key for c in store.clips.select(split="train")] == ["a", "ключ/../c"]
    assert [c.key for c in store.clips.select(split=["train", "test"], corpus="x")] == ["a", "b"]
    assert [c.key for c in store.clips.select(keys=["b", "a"])] == ["b", "a"]
    assert [c.key for c in store.clips.select(having="text")] == ["a", "ключ/../c"]
    with pytest.raises(UnknownName, match="no split named 'trian'; did you mean 'train'"):
        store.clips.select(split="trian")
    with pytest.raises(UnknownName, match="no clip named 'q'"):
        store.clips.select(keys=["q"])


def test_repr_and_pandas_show_what_is_inside(store: Store) -> None:
    """Counts per split and modality at a glance; a table with one row per clip."""
    assert repr(store.clips) == "<Clips: none yet>"
    store.clips.add(CLIPS)
    assert repr(store.clips) == "<Clips: 3 clips; train 2, test 1; audio 1, video 1, text 2; 1 speakers>"
    frame = store.clips.to_pandas()
    assert list(frame.index) == list(store.clips)
    assert frame.loc["a", "duration"] == 1.5


def test_two_writers_at_once_lose_nothing(store: Store) -> None:
    """A writer that lost the race adds only what the other did not."""
    other = Store.open(store.url)
    other.clips.add(CLIPS[:2])
    assert store.clips.add(CLIPS) == AddReport(1, 2, 0)
    assert set(Store.open(store.url).clips) == {clip.key for clip in CLIPS}


def test_nothing_lies_about_after_a_refusal(store: Store) -> None:
    """What was written for a commit that did not happen is gone."""
    store.clips.add(CLIPS)
    before = store.storage.list()

    class Refusing(Exception):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise Refusing

    store.write = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(Refusing):
        store.clips.add([Clip(key="z")])
    assert store.storage.list() == before


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Return a catalogue of text clips with labels."""
    path = tmp_path / "clips.csv"
    path.write_text("key,text,split,emotion\na,x,train,sad\nb,y,test,happy\nc,z,unlabeled,\n")
    return path


def test_ingest_is_one_commit_and_repeatable(store: Store, csv: Path) -> None:
    """Clips and labels come together; the same file again is no commit."""
    report = ingest(store, read_catalogue(csv))
    assert (store.commit, report.clips, report.layer_added) == (1, AddReport(3, 0, 0), True)
    assert store.labels["gold"].counts() == {"happy": 1, "sad": 1}
    again = ingest(store, read_catalogue(csv))
    assert (store.commit, again.clips, again.layer_added) == (1, AddReport(0, 3, 0), False)


def test_labels_of_a_split_can_be_hidden(store: Store, csv: Path) -> None:
    """Only the labels of the named splits are stored; a split without labels is an error."""
    ingest(store, read_catalogue(csv), label_splits=["train"], classes=["happy", "sad"])
    assert store.labels["gold"].keys == ("a",)
    assert store.labels["gold"].classes == ("happy", "sad")
    with pytest.raises(UnknownName, match="no split with labels named 'trian'; did you mean 'train'"):
        ingest(store, read_catalogue(csv), label_splits=["trian"], labels_as="other")


def test_a_label_outside_the_classes_names_its_line_and_stores_nothing(store: Store, csv: Path) -> None:
    """File, line, column, the class list and the nearest class; no clips, no layer, no files."""
    before = store.storage.list()
    with pytest.raises(BadInput, match=r"line 3, column emotion: label 'happy' is not one of .*'hapy'"):
        ingest(store, read_catalogue(csv), classes=["sad", "hapy"])
    assert store.commit == 0
    assert store.storage.list() == before


def test_changed_labels_are_refused_with_counts(store: Store, csv: Path) -> None:
    """A layer never changes: the differences are counted, nothing is stored, not even new clips."""
    ingest(store, read_catalogue(csv))
    csv.write_text("key,text,split,emotion\na,x,train,happy\nd,w,test,sad\n")
    with pytest.raises(NameTaken, match=r"1 labels added, 1 removed, 1 changed\).*--labels-as"):
        ingest(store, read_catalogue(csv))
    assert "d" not in store.clips


def test_a_dry_run_writes_nothing(store: Store, csv: Path) -> None:
    """The report is the same, the store is not touched."""
    report = ingest(store, read_catalogue(csv), dry_run=True)
    assert report.clips == AddReport(3, 0, 0)
    assert report.layer_added
    assert (store.commit, len(store.clips), len(store.labels)) == (0, 0, 0)


def test_the_past_cannot_be_written(store: Store, csv: Path) -> None:
    """A store opened at a commit refuses to ingest."""
    ingest(store, read_catalogue(csv))
    past = Store.open(store.url, at=1)
    with pytest.raises(StoreError, match="past"):
        past.clips.add([Clip(key="z")])


def test_clips_and_layers_live_on_s3_too(any_url: str, csv: Path) -> None:
    """The same two calls, on a local folder and on S3-compatible storage."""
    ingest(Store.create(any_url), read_catalogue(csv))
    store = Store.open(any_url)
    assert [clip.key for clip in store.clips.select(split="train")] == ["a"]
    assert store.labels["gold"].counts() == {"happy": 1, "sad": 1}


def test_the_composite_corpus_is_read_as_documented(shared: Path, store: Store) -> None:
    """457 clips of real media with their splits; labels of the training speakers only; no copies."""
    read = read_catalogue(shared / "data" / "composite" / "clips.csv")
    ingest(store, read)
    assert {s: len(store.clips.select(split=s)) for s in ("train", "unlabeled", "test")} == {
        "train": 175, "unlabeled": 183, "test": 99,
    }  # fmt: skip
    assert len({clip.content_hash for clip in store.clips.values()}) == 457
    sheet = read_labels(shared / "data" / "composite" / "labels.csv", "gold")
    store.labels.add(labels_for_clips(store, sheet, splits=["train"]))
    counts = {"anger": 55, "disgust": 19, "fear": 23, "happy": 22, "neutral": 31, "sad": 25}
    assert store.labels["gold"].counts() == counts


def test_a_catalogue_with_labels_in_it(shared: Path, store: Store) -> None:
    """EmoDB's table says path, emotion and speaker; without splits all of it is training data."""
    read = read_catalogue(shared / "data" / "emodb" / "labels.csv", corpus="emodb", hash_media=False)
    assert read.unused == ("sentence", "take")
    report = ingest(store, read)
    assert report.clips.added == 535
    assert store.labels["gold"].counts()["anger"] == 127
    assert {clip.split for clip in store.clips.values()} == {"train"}
    assert all(clip.video is None for clip in store.clips.values())


@pytest.mark.parametrize("kind", ["clips", "labels"])
def test_a_group_of_something_else_is_damage(store: Store, csv: Path, kind: str) -> None:
    """What a commit names and is neither clips nor a layer is an error for people, not a traceback."""
    ingest(store, read_catalogue(csv))
    [entry] = store.snapshot.entries(kind)  # type: ignore[arg-type]  # a literal of the parameters
    backend = find_backend(entry.backend)
    path = Path(store.url) / entry.path
    shutil.rmtree(path)
    backend.write(path, {"other": np.arange(3)}, {"name": "gold"})
    again = Store.open(store.url)
    with pytest.raises(Damaged):
        dict(again.clips) if kind == "clips" else again.labels["gold"]
