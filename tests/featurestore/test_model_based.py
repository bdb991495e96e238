"""The store against a dict: whatever is done in whatever order, reading gives what a dict would give."""

import shutil
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mer_featurestore import LabelLayer, SpaceSpec, Store
from mer_featurestore.compact import compact
from mer_featurestore.errors import NameTaken, StoreError
from mer_featurestore.maintenance import gc, remove, verify

SPACES = ("a-FRA", "b-FRA")
KEYS = ("k", "../k", "ключ", "k 1", "K", "🙂", "con")
CLASSES = ("sad", "happy")
spaces = st.sampled_from(SPACES)
clips = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), max_size=4)


class Crash(Exception):
    """Stands for the end of a process."""


def spec(name: str) -> SpaceSpec:
    """Return the specification every writer uses for a space."""
    return SpaceSpec(name=name, modality="text", level="frame", row_shape=(2,), made_by={"plugin": name})


def rows(key: str, length: int, salt: int) -> np.ndarray:
    """Return features that tell clip, space and attempt apart."""
    return np.full((length, 2), KEYS.index(key) * 100 + salt, np.float32)


class StoreMachine(RuleBasedStateMachine):
    """Does things to a store and to dicts, and compares."""

    backend = "zarr"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.salt = 0

    @initialize()
    def create(self) -> None:
        """Begin with an empty store."""
        self.store = Store.create(self.folder / "store", backend=self.backend)
        self.model: dict[str, dict] = {"features": {}, "labels": {}, "runs": {}}
        self.history = {0: deepcopy(self.model)}
        self.oldest = 0
        self.named: set[str] = set()

    def teardown(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder)

    def committed(self) -> None:
        """Remember what the newest commit must hold."""
        self.history[self.store.commit] = deepcopy(self.model)

    def put(self, store: Store, space: str, clips: dict[str, int], *, crash: bool = False) -> dict:
        """Write clips through a store; return what is new."""
        self.salt += 1
        new = {key: rows(key, length, self.salt) for key, length in clips.items()}
        with store.features.writer(spec(space)) as writer:
            for key, array in new.items():
                writer.add(key, array)
            if crash:
                raise Crash
        there = self.model["features"].get(space, {})
        return {key: array for key, array in new.items() if key not in there}

    @rule(space=spaces, clips=clips)
    def append(self, space: str, clips: dict[str, int]) -> None:
        """Clips that a space has already keep their features; new ones are added in order."""
        new = self.put(self.store, space, clips)
        if new:
            self.model["features"].setdefault(space, {}).update(new)
        self.committed()

    @rule(space=spaces, clips=clips)
    def append_from_elsewhere(self, space: str, clips: dict[str, int]) -> None:
        """What another process commits is invisible until `refresh`."""
        before, commit = deepcopy(self.model), self.store.commit
        new = self.put(Store.open(self.store.url), space, clips)
        self.check(self.store, before)
        assert self.store.commit == commit
        self.store.refresh()
        if new:
            self.model["features"].setdefault(space, {}).update(new)
        self.committed()

    @rule(space=spaces, clips=clips, number=st.integers(0, 10**6))
    def crash(self, space: str, clips: dict[str, int], number: int) -> None:
        """What was not committed is lost, files it left are invisible, and the store opens again."""
        with pytest.raises(Crash):
            self.put(self.store, space, clips, crash=True)
        for name in (f"features/{space}/{number}.h5", f"tmp/{number}/part"):
            if not self.store.storage.exists(name):
                self.store.storage.create(name, b"half")
        self.store = Store.open(self.store.url)

    @rule()
    def reopen(self) -> None:
        """Opening again changes nothing."""
        self.store = Store.open(self.store.url)

    @rule(
        name=st.sampled_from(("gold", "round1", "round2", "round3")),
        labels=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(CLASSES)),
    )
    def label(self, name: str, labels: dict[str, str]) -> None:
        """A layer is named once; a second of that name is refused, also when the first is gone."""
        layer = LabelLayer.human(name, CLASSES, labels)
        if name in self.named:
            with pytest.raises(NameTaken):
                self.store.labels.add(layer)
            return
        self.store.labels.add(layer)
        self.model["labels"][name] = labels
        self.named.add(name)
        self.committed()

    @rule(data=st.binary(max_size=20))
    def run(self, data: bytes) -> None:
        """Runs are numbered; each keeps its bytes and names what it stands on."""
        parents = tuple(f"features/{space}" for space in self.model["features"])
        bundle = self.store.runs.add_numbered("agt", {"weights": data}, parents=parents)
        self.model["runs"][bundle.name] = (data, parents)
        self.committed()

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data(), force=st.booleans())
    def remove(self, data: st.DataObject, force: bool) -> None:
        """A thing goes unless others stand on it."""
        refs = [(kind, name) for kind, things in self.model.items() for name in things]
        kind, name = data.draw(st.sampled_from(refs))
        users = [run for run, (_, parents) in self.model["runs"].items() if f"{kind}/{name}" in parents]
        if users and not force:
            with pytest.raises(StoreError, match="--force"):
                remove(self.store, f"{kind}/{name}")
            return
        remove(self.store, f"{kind}/{name}", force=force)
        del self.model[kind][name]
        self.committed()

    @rule(keep=st.none() | st.integers(1, 3))
    def collect(self, keep: int | None) -> None:
        """A sweep leaves no leftovers; it changes nothing that the kept snapshots have."""
        newest, oldest = self.store.commit, self.oldest
        report = gc(self.store, keep=keep, grace=0)
        self.oldest = report.oldest
        assert oldest <= report.oldest <= max(newest - (keep or newest) + 1, oldest)
        assert verify(self.store, deep=False).leftovers == 0
        self.committed()

    @rule(space=spaces)
    def compact(self, space: str) -> None:
        """Merging fragments changes no key, order or value."""
        if space in self.model["features"]:
            compact(self.store, space)
            self.committed()

    @rule(data=st.data())
    def read_the_past(self, data: st.DataObject) -> None:
        """Every kept commit still reads as it was; older ones are refused."""
        at = data.draw(st.sampled_from(sorted(self.history)))
        if at < self.oldest:
            with pytest.raises(StoreError, match="given up"):
                Store.open(self.store.url, at=at)
        else:
            self.check(Store.open(self.store.url, at=at), self.history[at])

    @invariant()
    def reads_like_the_dicts(self) -> None:
        """The store always reads as the dicts do."""
        if hasattr(self, "store"):
            self.check(self.store, self.model)

    @invariant()
    def is_sound(self) -> None:
        """Nothing is ever broken, except parents that were removed by force."""
        if hasattr(self, "store"):
            assert {problem.kind for problem in verify(self.store, deep=False).problems} <= {"parent"}

    def check(self, store: Store, model: dict[str, dict]) -> None:
        """Compare a store with dicts, keys, order and bytes."""
        assert sorted(store.features) == sorted(model["features"])
        for name, clips in model["features"].items():
            space = store.features[name]
            assert space.keys() == list(clips)
            packed = space.read(list(clips))
            for i, array in enumerate(clips.values()):
                assert np.array_equal(packed[i], array)
            assert space.missing(KEYS) == [key for key in KEYS if key not in clips]
        assert {
            name: {key: layer[key] for key in layer.keys} for name, layer in store.labels.items()
        } == model["labels"]
        assert {name: run.read("weights") for name, run in store.runs.items()} == {
            name: data for name, (data, _) in model["runs"].items()
        }


class Hdf5StoreMachine(StoreMachine):
    """The same with HDF5 files."""

    backend = "hdf5"


FEW = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestZarr = StoreMachine.TestCase
TestZarr.settings = FEW
TestHdf5 = Hdf5StoreMachine.TestCase
TestHdf5.settings = FEW
