"""Writers that are killed or race: readers see whole commits, nothing is lost, nothing is there twice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.maintenance import gc, verify

SCRIPT = Path(__file__).with_name("writers.py")
BACKENDS = ("zarr", "hdf5")


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
