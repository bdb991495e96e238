"""Writers that are killed or race: readers see whole commits, nothing is lost, nothing is there twice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.compact import compact
from mer_featurestore.errors import StoreError
from mer_featurestore.groups import BACKENDS
from mer_featurestore.maintenance import gc, verify
from support.features import fill, make_clips, make_spec, write

SCRIPT = Path(__file__).with_name("writers.py")


def run(mode: str, number: int, *urls: str) -> None:
    """Run the writers' script; its complaints become the failure's message."""
    command = [sys.executable, str(SCRIPT), mode, str(number), *urls]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]


def contents(store: Store) -> dict[str, dict[str, np.ndarray]]:
    """Return all features of a store."""
    return {name: {key: space[key] for key in space.keys()} for name, space in store.features.items()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_kill_nine_at_random_moments(tmp_path, backend):
    """Killed 50 times at random moments: always a prefix of whole commits; the end is as without kills."""
    # Ten stores of five kills each, so that none is full before its last kill.
    stores = [Store.create(tmp_path / f"killed-{i}", backend=backend) for i in range(10)]
    run("crash", 5, *(store.url for store in stores))
    run("crash", 0, Store.create(tmp_path / "calm", backend=backend).url)
    store = stores[-1]
    store.refresh()
    calm, killed = contents(Store.open(tmp_path / "calm")), contents(store)
    assert {name: list(space) for name, space in killed.items()} == {n: list(s) for n, s in calm.items()}
    for name, space in killed.items():
        for key, rows in space.items():
            assert np.array_equal(rows, calm[name][key])
    gc(store, grace=0)
    assert verify(store).leftovers == 0
    assert store.storage.list("tmp") == {}
    assert not list((tmp_path / "killed-9" / "tmp").iterdir())
    assert verify(store).ok


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_writers_at_once(any_url, backend):
    """Eight processes that write the same clips into the same spaces: each key once, none lost."""
    store = Store.create(any_url, backend=backend)
    run("race", 8, any_url)
    store.refresh()
    for space in store.features.values():
        assert sorted(space.keys()) == [f"clip/{i:04d}" for i in range(15)]
        for key in space.keys():  # noqa: SIM118 - a space is no mapping
            number = int(key[-4:])
            assert (space[key].ravel()[:1] == number).all()
    found = verify(store)
    assert found.ok, found.problems
    assert gc(store, grace=0).size == 0 or verify(store).ok


CHANGES = {
    "features": lambda store: write(store, make_spec(), make_clips(3, make_spec(), first=500)),
    "compact": compact,
    "clips": lambda store: store.clips.add([Clip(key="a", text="a")]),
    "labels": lambda store: store.labels.add(LabelLayer.human("gold", None, {"a": "sad"})),
    "runs": lambda store: store.runs.add("agt-1", {"metrics.json": b"{}"}),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("the answer was lost")], ids=type)
@pytest.mark.parametrize("change", CHANGES)
def test_an_error_after_the_commit_was_made(any_url, monkeypatch, change, error):
    """Ctrl-C, or a server whose answer is lost, right after the journal file is there: its files stay."""
    store, _ = fill(any_url, make_spec())
    create = store.storage.create

    def create_and_fail(name: str, data: bytes) -> None:
        create(name, data)
        if name.startswith("journal/"):
            monkeypatch.setattr(store.storage, "create", create)
            raise error

    monkeypatch.setattr(store.storage, "create", create_and_fail)
    with pytest.raises(type(error)):
        CHANGES[change](store)
    again = Store.open(any_url)
    assert again.commit == 4
    found = verify(again)
    assert (found.problems, found.leftovers) == ([], 0)


@pytest.mark.parametrize("change", CHANGES)
def test_an_error_before_the_commit_is_made_leaves_nothing(any_url, monkeypatch, change):
    """When the journal file cannot be made, what was written for it is deleted at once."""
    store, _ = fill(any_url, make_spec())
    before = store.storage.list()

    def refuse(name: str, _data: bytes) -> None:
        raise StoreError(f"no space left for {name}")

    monkeypatch.setattr(store.storage, "create", refuse)
    with pytest.raises(StoreError, match="no space left for journal/00000004"):
        CHANGES[change](store)
    assert store.storage.list() == before
