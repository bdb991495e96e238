"""Keeping a store in order: gc, rm and verify, on both storages, with every kind of damage."""

import time
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.commits import Change, Entry
from mer_featurestore.errors import BadInput, Damaged, NameTaken, StoreError, UnknownName
from mer_featurestore.journal import EVERY, commit_name
from mer_featurestore.maintenance import gc, open_readable, remove, verify

KEYS = ("a", "b", "c")
LORA = SpaceSpec(
    name="lora-UTT",
    modality="audio",
    level="utt",
    row_shape=(4,),
    made_by={"plugin": "x"},
    parents=("adapters/lora",),
)


def fill(url: str, backend: str = "zarr") -> Store:
    """Make a store with one of everything: clips, gold, an adapter tuned on it, its space, a run, a round."""
    store = Store.create(url, backend=backend)
    store.clips.add([Clip(key=key, text=key, split="train") for key in KEYS])
    store.labels.add(LabelLayer.human("gold", ("sad", "happy"), {"a": "sad", "b": "happy"}))
    store.adapters.add("lora", {"card.json": b"{}"}, parents=("labels/gold",))
    with store.features.writer(LORA) as writer:
        for i, key in enumerate(KEYS):
            writer.add(key, np.full(4, i))
    store.runs.add("agt-1", {"config.json": b"{}"}, parents=("features/lora-UTT", "labels/gold"))
    store.labels.add(
        LabelLayer.human("round1", ("sad", "happy"), {"c": "sad"}, parents=("labels/gold", "runs/agt-1"))
    )
    return store


@pytest.fixture(params=["zarr", "hdf5"])
def full(request, tmp_path):
    """Return a local store with one of everything, in both formats."""
    return fill(str(tmp_path / "store"), request.param)


def damage(store: Store, name: str, data: bytes | None) -> None:
    """Replace a file behind the store's back, or delete it."""
    store.storage.delete([name])
    if data is not None:
        store.storage.create(name, data)


def found(store: Store, **options) -> list[tuple[str, str]]:
    """Return kind and place of every problem."""
    return [(problem.kind, problem.where) for problem in verify(store, **options).problems]


def feature_file(store: Store) -> str:
    """Return the name of the largest file of the feature space."""
    entry = store.snapshot.entries("features")[0]
    return max(entry.file_names(), key=store.storage.list("features").__getitem__)


def test_a_sound_store_verifies(any_url):
    """One of everything on local and S3 storage: nothing is wrong, and everything was looked at."""
    report = verify(fill(any_url))
    assert report.problems == []
    assert (report.commits, report.entries, report.leftovers) == (6, 6, 0)
    assert report.files > 6
    assert str(report).startswith("sound: 6 commits")
    assert report.to_json()["ok"] is True


def test_a_deleted_file_is_listed_and_others_are_readable(full):
    """A fragment that lost a file is named by verify and by the read; labels and runs still read."""
    name = feature_file(full)
    damage(full, name, None)
    assert ("missing", name) in found(full, deep=False)
    again = Store.open(full.url)
    with pytest.raises(Damaged, match=Path(name).name):
        again.features["lora-UTT"].read(["a"])
    assert again.labels["gold"]["a"] == "sad"
    assert again.runs["agt-1"].json("config.json") == {}


def test_a_truncated_file_is_listed(full):
    """A file cut short is found without reading data, and a read of it says which one it is."""
    name = feature_file(full)
    damage(full, name, full.storage.read(name)[:-7])
    assert ("size", name) in found(full, deep=False)
    with pytest.raises(Damaged, match=Path(name).name):
        Store.open(full.url).features["lora-UTT"].matrix()


def test_a_flipped_byte_is_listed(any_url):
    """One flipped byte in any file of any kind is found by the deep check, and only there."""
    store = fill(any_url)
    for placed in store.snapshot.all():
        name = max(placed.entry.file_names(), key=store.storage.list().__getitem__)
        data = store.storage.read(name)
        damage(store, name, data[:-1] + bytes([data[-1] ^ 1]))
        assert found(store, deep=False) == []
        assert found(store) == [("checksum", name)]
        damage(store, name, data)
    assert found(store) == []


def test_all_damage_is_listed_at_once(full):
    """Several damaged things are all listed: one does not hide the others."""
    names = [placed.entry.file_names()[0] for placed in full.snapshot.all()]
    for name in names:
        damage(full, name, None)
    assert {where for kind, where in found(full) if kind == "missing"} == set(names)


def test_a_half_written_journal_file(any_url):
    """With the newest commit half-written the store opens before it, and verify names the file."""
    store = fill(any_url)
    damage(store, commit_name(6), store.storage.read(commit_name(6))[:100])
    with pytest.raises(Damaged, match=commit_name(6)):
        Store.open(any_url)
    readable = open_readable(any_url)
    assert readable.commit == 5
    assert readable.runs["agt-1"].json("config.json") == {}
    assert [place for place in found(readable) if place[0] == "journal"] == [("journal", commit_name(6))]


@pytest.mark.parametrize(
    "name", ["._00000001.json", "notes.json", "9.json", "00000001 (copy).json", "00000007.json.partial"]
)
def test_files_of_other_programs_in_the_journal_are_passed_over(full, name):
    """What a file manager or a synchroniser leaves there neither breaks a store nor hides damage."""
    for folder in ("journal", "checkpoints"):
        full.storage.create(f"{folder}/{name}", b"x")
    assert Store.open(full.url).commit == full.commit
    assert verify(full).ok
    full.storage.delete([commit_name(full.commit)])
    full.storage.create(commit_name(full.commit), b"half")
    assert open_readable(full.url).commit == full.commit - 1


def test_damage_in_old_commits_behind_a_checkpoint(tmp_path):
    """Missing, swapped and damaged commits are listed even when a checkpoint makes opening skip them."""
    store = Store.create(tmp_path / "s")
    for i in range(EVERY):
        store.write(lambda _, i=i: Change(quarantine={"s": {f"k{i}": "r"}}))
    damage(store, commit_name(3), None)
    damage(store, commit_name(5), b"{}")
    damage(store, commit_name(7), store.storage.read(commit_name(8)))
    again = Store.open(store.url)
    assert found(again) == [("journal", commit_name(n)) for n in (3, 5, 7)]


def test_a_wrong_checkpoint_is_listed(tmp_path):
    """A checkpoint that is damaged, or says other than the commits do, is named."""
    store = Store.create(tmp_path / "s")
    for i in range(2 * EVERY):
        store.write(lambda _, i=i: Change(quarantine={"s": {f"k{i}": "r"}}))
    first, second = store.storage.list("checkpoints")
    other = Store.create(tmp_path / "other")
    for i in range(EVERY):
        other.write(lambda _, i=i: Change(quarantine={"other": {f"k{i}": "r"}}))
    damage(store, first, other.storage.read(first))
    damage(store, second, b"{")
    assert found(store) == [("checkpoint", first), ("checkpoint", second)]


def test_a_key_twice_in_a_space_is_listed(full):
    """Two fragments that hold the same key, which no writer makes, are named with the key."""
    entry = full.snapshot.entries("features")[0]
    path = entry.path.replace("/lora-UTT/", "/lora-UTT/copy")
    for name in entry.file_names():
        full.storage.create(name.replace(entry.path, path), full.storage.read(name))
    full.write(lambda _: Change(add=[Entry(**{**vars(entry), "path": path})]))
    problems = [problem for problem in verify(full).problems if problem.kind == "key"]
    assert len(problems) == 3
    assert "'a'" in problems[0].message


def test_a_dangling_parent_is_listed(full):
    """A thing whose parent was removed by force is named with the parent."""
    remove(full, "runs/agt-1", force=True)
    assert found(full) == [("parent", "labels/round1")]


def test_gc_sweeps_only_what_no_commit_names(any_url):
    """Leftovers of killed writers go after the grace time; everything that is named stays."""
    store = fill(any_url)
    named = set(store.storage.list())
    leftovers = {"features/x/1/zarr.json": 2, "runs/dead/weights": 5, "tmp/abc/part": 1}
    for name, size in leftovers.items():
        store.storage.create(name, bytes(size))
    assert gc(store).files == {}, "the files are younger than the grace time"
    assert gc(store, grace=0, dry_run=True).files == leftovers
    assert set(store.storage.list()) == named | set(leftovers), "a dry run deletes nothing"
    assert verify(store).leftovers == 2
    report = gc(store, grace=0)
    assert (report.files, report.size, report.gave_up) == (leftovers, 8, False)
    assert set(store.storage.list()) == named
    assert verify(store).ok
    assert store.commit == 6


def test_gc_leaves_other_files_alone(tmp_path):
    """A note that somebody put beside the data, and the journal, are never swept."""
    store = fill(str(tmp_path / "s"))
    (tmp_path / "s" / "README.txt").write_text("ours")
    gc(store, grace=0, keep=1)
    assert (tmp_path / "s" / "README.txt").exists()
    assert len(store.storage.list("journal")) == 6


def test_gc_gives_up_old_snapshots_when_asked(any_url):
    """`keep` frees what only older snapshots have; those are then refused, the kept ones are whole."""
    store = fill(any_url)
    remove(store, "labels/round1")
    remove(store, "runs/agt-1")
    assert len(gc(store, grace=0).files) == 0, "without keep every snapshot stays readable"
    assert Store.open(any_url, at=6).labels["round1"]["c"] == "sad"
    report = gc(store, grace=0, keep=2)
    assert report.gave_up
    assert report.oldest == 7
    assert any(name.startswith("labels/round1") for name in report.files)
    assert not any(name.startswith("runs/") for name in report.files)
    assert verify(store).ok
    assert Store.open(any_url, at=7).runs["agt-1"].json("config.json") == {}
    with pytest.raises(StoreError, match=r"given up.*oldest kept is 7"):
        Store.open(any_url, at=6)
    assert gc(store, grace=0, keep=1).gave_up
    assert store.storage.list("runs") == {}


def test_gc_grace_covers_readers_of_old_snapshots(tmp_path):
    """A snapshot that was superseded only just now is kept within the grace time, whatever `keep` says."""
    store = fill(str(tmp_path / "s"))
    remove(store, "labels/round1")
    assert not gc(store, keep=1, grace=60).gave_up
    assert Store.open(store.url, at=6).labels["round1"]["c"] == "sad"
    time.sleep(0.02)
    assert gc(store, keep=1, grace=0.01).gave_up


def test_gc_finishes_what_a_killed_gc_began(tmp_path, monkeypatch):
    """Killed between giving up snapshots and deleting, the next sweep deletes; nothing is half-readable."""
    store = fill(str(tmp_path / "s"))
    remove(store, "labels/round1")

    def die(_names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.storage, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            gc(store, keep=1, grace=0)
    with pytest.raises(StoreError, match="given up"):
        Store.open(store.url, at=6)
    assert any(name.startswith("labels/round1") for name in gc(store, grace=0).files)
    assert verify(store).leftovers == 0


def test_gc_refuses_nonsense_and_damage(full):
    """No snapshot kept, a negative grace, a store in the past or a damaged journal: nothing is deleted."""
    with pytest.raises(BadInput):
        gc(full, keep=0)
    with pytest.raises(BadInput):
        gc(full, grace=-1)
    with pytest.raises(StoreError, match="--at"):
        gc(Store.open(full.url, at=3))
    files = full.storage.list()
    damage(full, commit_name(2), b"")
    with pytest.raises(Damaged):
        gc(full, grace=0)
    assert full.storage.list().keys() == files.keys()


def test_remove_what_nothing_stands_on(any_url):
    """A removed thing is gone from now on, still there in the past, and the journal says who did it."""
    store = fill(any_url)
    assert remove(store, "round1", dry_run=True).dependents == ()
    assert "round1" in store.labels
    report = remove(store, "round1", command="mer-fs rm round1")
    assert (report.ref, report.entries) == ("labels/round1", 1)
    assert report.size > 0
    assert "round1" not in Store.open(any_url).labels
    assert "round1" in Store.open(any_url, at=6).labels
    assert next(store.log()).summary() == "- labels/round1"


def test_a_removed_layers_name_is_not_given_again(full):
    """Results that name a layer always mean the same one, also after checkpoints and reopening."""
    layer = full.labels["round1"]
    remove(full, "labels/round1")
    for _ in range(EVERY):
        full.write(lambda now: Change(quarantine={"x": {"k": str(now.number)}}))
    again = Store.open(full.url)
    with pytest.raises(NameTaken, match="there was a label layer 'round1', removed by commit"):
        again.labels.add(layer)


def test_remove_warns_of_what_stands_on_it(full):
    """Others standing on it are named; force removes runs and spaces but never labels."""
    assert remove(full, "agt-1", dry_run=True).dependents == ("labels/round1",)
    with pytest.raises(StoreError, match=r"labels/round1 .*runs/agt-1.*--force"):
        remove(full, "agt-1")
    for force in (False, True):
        with pytest.raises(StoreError, match=r"adapters/lora, runs/agt-1, labels/round1.*never removed"):
            remove(full, "labels/gold", force=force)
    assert full.commit == 6
    assert remove(full, "agt-1", force=True).dependents == ("labels/round1",)
    assert "agt-1" not in full.runs


def test_remove_sees_what_others_committed_meanwhile(full):
    """A dependent that another process committed after the store was opened still protects."""
    other = Store.open(full.url)
    remove(full, "round1")
    other.refresh()
    other.runs.add("late", {}, parents=("runs/agt-1",))
    with pytest.raises(StoreError, match="runs/late"):
        remove(full, "runs/agt-1")


def test_remove_takes_a_space_and_its_quarantine(full):
    """Removing a space also forgets which clips it could not be made for, so that it can be made anew."""
    full.write(lambda _: Change(quarantine={"lora-UTT": {"d": "no audio"}}))
    remove(full, "lora-UTT", force=True)
    assert full.snapshot.quarantine("lora-UTT") == {}
    assert "lora-UTT" not in full.features


def test_remove_unknown_ambiguous_or_clips(full):
    """Unknown names get a suggestion, ambiguous ones the choice, and the catalogue cannot go."""
    with pytest.raises(UnknownName, match="did you mean 'round1'"):
        remove(full, "round")
    with pytest.raises(UnknownName, match="did you mean 'labels/round1'"):
        remove(full, "labels/round")
    full.runs.add("gold", {})
    with pytest.raises(StoreError, match=r"labels/gold, runs/gold"):
        remove(full, "gold", dry_run=True)
    with pytest.raises(StoreError, match="cannot be removed"):
        remove(full, "clips/catalogue")
