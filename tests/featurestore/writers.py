"""Processes that write to one store, to be killed (`crash`) or to race (`race`); run as a script.

Everything is imported once, then children are forked: a child is at work within milliseconds. The parent
itself never touches a store, because the S3 client does not survive a fork.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable

import h5py  # noqa: F401 - warm for the children
import numpy as np
import zarr  # noqa: F401 - warm for the children

import mer_featurestore.backends.hdf5
import mer_featurestore.backends.zarr
import mer_featurestore.maintenance
import mer_featurestore.spaces
import mer_featurestore.writer  # noqa: F401 - warm for the children
from mer_featurestore import SpaceSpec, Store
from mer_featurestore.maintenance import verify

KEYS = [f"clip/{i:04d}" for i in range(60)]
SPECS = (
    SpaceSpec(name="a-UTT", modality="audio", level="utt", row_shape=(8,), made_by={"plugin": "test"}),
    SpaceSpec(name="a-FRA", modality="audio", level="frame", row_shape=(8,), made_by={"plugin": "test"}),
)
BATCH = 3
RACED = 15  # clips that racing writers write


def features(key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what every writer gives a clip: its utterance row and its frames, some clips having none."""
    number = int(key[-4:])
    frames = np.arange(number % 5 * 8, dtype=np.float32).reshape(-1, 8) + number
    return np.full(8, number, np.float32), frames


def append(url: str, keys: list[str], acknowledge: Callable[[], object] = lambda: None) -> None:
    """Add the keys the store does not have yet to both spaces, a commit for every few, telling of each."""
    store = Store.open(url)
    there = set(store.features["a-UTT"].keys()) if "a-UTT" in store.features else set()
    with store.features.writer(*SPECS) as writer:
        for i, key in enumerate([key for key in keys if key not in there], start=1):
            writer.add(key, *features(key))
            if i % BATCH == 0:
                writer.flush()
                acknowledge()


def check(url: str, *, least: int, deep: bool = False) -> None:
    """Check that readers see the first n keys in both spaces, whole, and that n is at least `least`."""
    store = Store.open(url)
    if "a-UTT" not in store.features:
        assert store.commit == least == 0
        return
    utterances, frames = store.features["a-UTT"], store.features["a-FRA"]
    keys = utterances.keys()
    assert keys == frames.keys() == KEYS[: len(keys)], "the spaces are not the same prefix"
    assert len(keys) >= least, f"{len(keys)} clips, although {least} were committed"
    assert store.commit * BATCH == len(keys), "a commit is not one batch"
    for key in keys if deep else keys[-2 * BATCH :]:
        row, rows = features(key)
        assert np.array_equal(utterances[key][0], row), key
        assert np.array_equal(frames[key], rows), key
    found = verify(store, deep=deep)
    assert found.ok, found.problems


def fork(work: Callable[[], object]) -> int:
    """Run something in a child; its exit status is 0 when it went well."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - whatever it is, the child ends here and says so
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    """Return a child's exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crash(kills: int, *urls: str) -> None:
    """Kill writers of each store again and again, check what they left each time, then let one finish."""
    chance = random.Random(kills)
    for url in urls:
        crash_one(url, kills, chance)


def crash_one(url: str, kills: int, chance: random.Random) -> None:
    """Do that to one store."""
    killed, committed, reader = 0, 0, fork(lambda: None)
    while killed < kills:
        commits, was_killed = write_and_die(url, commits=chance.randrange(4), then=chance.uniform(0, 0.04))
        killed, committed = killed + was_killed, committed + commits
        if wait(reader):
            sys.exit(f"broken after at most {killed} kills")
        # Reads what the kill left while the next one writes.
        reader = fork(lambda least=committed * BATCH: check(url, least=least))
    if wait(reader) or wait(fork(lambda: append(url, KEYS))):
        sys.exit(f"broken after {killed} kills")
    if wait(fork(lambda: check(url, least=len(KEYS), deep=True))):
        sys.exit("the resumed run is broken")


def write_and_die(url: str, commits: int, then: float) -> tuple[int, bool]:
    """Kill a writer some time after it has made some commits.

    Returns:
        How many commits it told of, and whether it was killed (rather than done).
    """
    ours, theirs = os.pipe()
    child = fork(lambda: append(url, KEYS, lambda: os.write(theirs, b".")))
    os.close(theirs)
    with open(ours, "rb", buffering=0) as told:  # noqa: PTH123 - a pipe has no path
        seen = sum(len(told.read(1)) for _ in range(commits))  # an early end reads as nothing
        time.sleep(then)
        os.kill(child, signal.SIGKILL)
        was_killed = wait(child) == -signal.SIGKILL
        return seen + len(told.readall()), was_killed


def race(writers: int, url: str) -> None:
    """Let writers put the same keys into the same spaces at once, each in an order of its own."""

    def write(i: int) -> None:
        keys = KEYS[:RACED]
        random.Random(i).shuffle(keys)
        append(url, keys)

    children = [fork(lambda i=i: write(i)) for i in range(writers)]
    statuses = [wait(child) for child in children]
    if any(statuses):
        sys.exit(f"writers ended with {statuses}")


if __name__ == "__main__":
    {"crash": crash, "race": race}[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
