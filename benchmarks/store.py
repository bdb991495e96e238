"""The feature store against the bare machine: ratios within one process, page cache warm and cold.

The frame-level space has 6,000 clips of 50 to 350 frames, 1024-d float16, 2.5 GB. References: one flat file
read by `os.preadv` into a preallocated buffer (the limit), and one `.npy` file per clip (what people do).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Results, compare, drop, files_below, memory, seconds, warm
from mer_featurestore import SpaceSpec, Store
from mer_featurestore.groups import BACKENDS, find_backend
from mer_featurestore.journal import Change

WIDTH, BATCH = 1024, 64
AT_LEAST, AT_MOST = ">=", "<="


@dataclass
class Corpus:
    """The clips, and the references made of them.

    Attributes:
        folder: Where everything lies.
        clips: How many.
    """

    folder: Path
    clips: int

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self.lengths = random.integers(50, 351, self.clips)
        self.ends = np.concatenate([[0], np.cumsum(self.lengths)]) * WIDTH * 2
        self.pool = random.normal(size=(16_384, WIDTH)).astype(np.float16)
        self.keys = [f"corpus/dialogue_{i // 20:05d}/utterance_{i % 20:02d}" for i in range(self.clips)]

    def clip(self, i: int) -> NDArray[np.float16]:
        """Return clip i, `[T, 1024]`."""
        start = (i * 7919) % (len(self.pool) - 351)
        return self.pool[start : start + self.lengths[i]]

    @property
    def size(self) -> int:
        """Bytes of all clips."""
        return int(self.ends[-1])

    @cached_property
    def batches(self) -> NDArray[np.int64]:
        """Random clips, `[rounds, 64]`."""
        return np.random.default_rng(1).integers(0, self.clips, (200, BATCH))

    @cached_property
    def flat(self) -> Path:
        """The flat file."""
        return self.folder / "flat"

    def write_flat(self) -> None:
        """Append all clips to one file and flush it: the reference for appending."""
        with self.flat.open("wb") as file:
            for i in range(self.clips):
                file.write(self.clip(i).data)
            file.flush()
            os.fsync(file.fileno())

    def write_npy(self) -> None:
        """Write a file per clip."""
        (self.folder / "npy").mkdir()
        for i in range(self.clips):
            np.save(self.folder / "npy" / f"{i}.npy", self.clip(i))
        subprocess.run(["sync", "-f", str(self.folder)], check=True)

    def write_store(self, backend: str) -> Store:
        """Append all clips to a space of a new store."""
        store = Store.create(self.folder / backend, backend=backend)
        with store.features.writer(spec("x-FRA")) as writer:
            for i, key in enumerate(self.keys):
                writer.add(key, self.clip(i))
        return store


def spec(name: str, width: int = WIDTH, **changes: Any) -> SpaceSpec:
    """Return the specification of a space."""
    level = "utt" if name.endswith("UTT") else "frame"
    settings: dict[str, Any] = {"dtype": "float16", "made_by": {"plugin": "benchmark"}}
    return SpaceSpec(name=name, modality="audio", level=level, row_shape=(width,), **(settings | changes))


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Measure everything and print a table."""
    results, part = Results(), 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name:
        corpus = Corpus(Path(name), 6000 // part)
        print(f"{corpus.clips} clips, {corpus.size / 1e9:.2f} GB in {name}", flush=True)
        corpus.write_npy()
        for backend in BACKENDS:
            store = _append(results, corpus, backend)
            _random_batches(results, corpus, store, backend)
            _padded_batches(results, corpus, store, backend)
            _scan(results, corpus, store, backend)
            _workers(results, corpus, store, backend)
            _commit(results, store, backend)
            shutil.rmtree(corpus.folder / backend)
        shutil.rmtree(corpus.folder / "npy")
        corpus.flat.unlink()
        for backend in BACKENDS:
            _many_clips(results, corpus, backend, 100_000 // part)
            _matrix(results, corpus, backend, 120_000 // part)
            _many_keys(results, corpus, backend, 1_000_000 // part)
        _codecs(results, corpus, 400 // part)
    results.show("Feature store" + (" (quick: sizes too small to judge)" if quick else ""))


def _append(results: Results, corpus: Corpus, backend: str) -> Store:
    """Appending, as a share of appending to a flat file; both flushed to the disk."""
    raw, ours, stores = [], [], []
    for _ in range(3):
        raw.append(seconds(corpus.write_flat))
        shutil.rmtree(corpus.folder / backend, ignore_errors=True)
        ours.append(seconds(lambda: stores.append(corpus.write_store(backend))))
    results.add("append / raw append", backend, min(raw) / min(ours), (AT_LEAST, 0.35))
    results.add("append", backend, corpus.size / min(ours) / 1e9, unit="GB/s")
    return stores[-1]


def _random_batches(results: Results, corpus: Corpus, store: Store, backend: str) -> None:
    """64 random clips: the store, the bare loop, a file per clip."""
    space, largest = store.features["x-FRA"], BATCH * 351 * WIDTH
    buffer, bare = np.zeros(largest, np.float16), np.zeros(largest, np.float16)
    target, descriptor = memoryview(bare).cast("B"), os.open(corpus.flat, os.O_RDONLY)

    def preadv(number: int) -> None:
        place = 0
        for i in corpus.batches[number].tolist():
            start, length = int(corpus.ends[i]), int(corpus.ends[i + 1] - corpus.ends[i])
            os.preadv(descriptor, [target[place : place + length]], start)
            place += length

    def ours(number: int) -> None:
        space.read([corpus.keys[i] for i in corpus.batches[number]], out=buffer)

    def npy(number: int) -> list[NDArray[Any]]:
        return [np.load(corpus.folder / "npy" / f"{i}.npy") for i in corpus.batches[number]]

    methods = {"preadv": preadv, "ours": ours, "npy": npy}
    everything = files_below(corpus.folder)
    for state in ("warm", "cold"):
        if state == "warm":
            warm(everything)
            compare(methods, 3)
        found = compare(
            methods,
            90 if state == "warm" else 60,
            before=partial(drop, everything) if state == "cold" else None,
        )
        results.add(
            f"random batch / bare preadv, {state}", backend, found["preadv"] / found["ours"], (AT_LEAST, 0.9)
        )
        goal = 2.0 if state == "warm" else 1.5
        results.add(
            f"random batch / .npy per clip, {state}", backend, found["npy"] / found["ours"], (AT_LEAST, goal)
        )
        results.add(f"random batch of 64, {state}", backend, found["ours"] * 1e3, unit="ms")
    os.close(descriptor)


def _padded_batches(results: Results, corpus: Corpus, store: Store, backend: str) -> None:
    """64 random clips as one padded float32 tensor, against load, cast, pad and stack."""
    import torch

    from mer_zoo.loading import FeatureDataset

    dataset = FeatureDataset({"audio": store.features["x-FRA"]}, corpus.keys)

    def ours(number: int) -> object:
        return dataset.__getitems__(corpus.batches[number].tolist())

    def naive(number: int) -> object:
        loaded = [
            np.load(corpus.folder / "npy" / f"{i}.npy").astype(np.float32) for i in corpus.batches[number]
        ]
        longest = max(map(len, loaded))
        padded = [np.pad(array, ((0, longest - len(array)), (0, 0))) for array in loaded]
        return torch.from_numpy(np.stack(padded))

    warm(files_below(corpus.folder))
    compare({"ours": ours, "naive": naive}, 3)
    found = compare({"ours": ours, "naive": naive}, 40)
    results.add(
        "padded float32 tensor / naive loader", backend, found["naive"] / found["ours"], (AT_LEAST, 6)
    )
    results.add("padded float32 tensor of 64", backend, found["ours"] * 1e3, unit="ms")


def _scan(results: Results, corpus: Corpus, store: Store, backend: str) -> None:
    """All clips in store order, as a share of reading the flat file in steps of the same size."""
    space = store.features["x-FRA"]
    buffer = np.zeros(BATCH * 351 * WIDTH, np.float16)
    block = buffer.reshape(-1).view(np.uint8).data[: BATCH * corpus.size // corpus.clips]

    def ours(_: int) -> None:
        for _batch in space.scan(BATCH, out=buffer):
            pass

    def flat(_: int) -> None:
        with corpus.flat.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass

    everything = [corpus.flat, *files_below(corpus.folder / backend)]
    for state in ("warm", "cold"):
        warm(everything)
        before = partial(drop, everything) if state == "cold" else None
        found = compare({"ours": ours, "flat": flat}, 6, before=before, best=True)
        results.add(
            f"scan / reading the flat file, {state}", backend, found["flat"] / found["ours"], (AT_LEAST, 0.8)
        )


def _workers(results: Results, corpus: Corpus, store: Store, backend: str) -> None:
    """A DataLoader with two forked workers, after the parent has read, against one process.

    The workers are kept from epoch to epoch; the first, in which memory is touched for the first time, does
    not count. Each batch is used: its mean is taken.
    """
    import torch
    from torch.utils.data import DataLoader

    from mer_zoo.loading import FeatureDataset, collate

    dataset = FeatureDataset({"audio": store.features["x-FRA"]}, corpus.keys)
    dataset[0]

    def loader(workers: int) -> Any:
        settings = {
            "num_workers": workers,
            "timeout": 60 * bool(workers),
            "persistent_workers": bool(workers),
        }
        return DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate, **settings)

    def epoch(batches: Any, _: int) -> None:
        for batch in batches:
            float(batch.features["audio"].features.mean())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one in each process, so that two workers have something to gain
    methods = {name: partial(epoch, loader(n)) for name, n in (("one", 0), ("two", 2))}
    files = files_below(corpus.folder / backend)
    warm(files)
    for state in ("warm", "cold"):
        compare(methods, 1)
        before = partial(drop, files) if state == "cold" else None
        found = compare(methods, 4, before=before, best=True)
        ratio = found["one"] / found["two"]
        results.add(f"2 forked workers / one process, {state}", backend, ratio, (AT_LEAST, 1.0))
    torch.set_num_threads(threads)


def _commit(results: Results, store: Store, backend: str) -> None:
    """A commit by itself, and with a small fragment."""

    def empty(number: int) -> None:
        store.write(lambda _: Change(quarantine={"x-FRA": {f"bad{number}": "no audio stream"}}))

    def small(number: int) -> None:
        with store.features.writer(spec("y-UTT", 64)) as writer:
            writer.add(f"k{number}", np.ones(64))

    found = compare({"empty": empty, "small": small}, 30)
    results.add("commit", backend, found["empty"] * 1e3, (AT_MOST, 10), "ms")
    results.add("commit of a one-clip fragment", backend, found["small"] * 1e3, unit="ms")


def _many_clips(results: Results, corpus: Corpus, backend: str, clips: int) -> None:
    """Files of 100,000 clips of 12 frames."""
    store = Store.create(corpus.folder / "many", backend=backend)
    with store.features.writer(spec("x-FRA")) as writer:
        for i in range(clips):
            writer.add(f"clip{i:07d}", corpus.pool[i % 9999 : i % 9999 + 12])
    results.add("files of 100,000 clips", backend, len(files_below(corpus.folder / "many")), (AT_MOST, 200))
    shutil.rmtree(corpus.folder / "many")


def _matrix(results: Results, corpus: Corpus, backend: str, clips: int) -> None:
    """All of 120,000 x 1024 float32 in one matrix, as a share of reading the bytes into fresh memory."""
    store = Store.create(corpus.folder / "utt", backend=backend)
    with store.features.writer(spec("x-UTT", dtype="float32")) as writer:
        for i in range(clips):
            writer.add(f"clip{i:07d}", corpus.pool[i % len(corpus.pool)])
    space, flat = store.features["x-UTT"], corpus.folder / "flat32"
    space.matrix().tofile(flat)
    with flat.open("rb") as file:
        os.fsync(file.fileno())
    everything = [flat, *files_below(corpus.folder / "utt")]
    methods = {"ours": lambda _: space.matrix(), "bytes": lambda _: np.fromfile(flat, np.float32)}
    for state in ("warm", "cold"):
        warm(everything)
        before = partial(drop, everything) if state == "cold" else None
        found = compare(methods, 8, before=before, best=True)
        ratio = found["bytes"] / found["ours"]
        results.add(f"120,000 x 1024 matrix / reading the bytes, {state}", backend, ratio, (AT_LEAST, 0.8))
    flat.unlink()
    shutil.rmtree(corpus.folder / "utt")


def _many_keys(results: Results, corpus: Corpus, backend: str, keys: int) -> None:
    """Opening a million keys in a fresh process, in ten fragments and compacted to one."""
    from mer_featurestore.compact import compact

    store, row = Store.create(corpus.folder / "keys", backend=backend), np.ones(16, np.float16)
    for start in range(0, keys, keys // 10):
        with store.features.writer(spec("x-UTT", 16)) as writer:
            for i in range(start, start + keys // 10):
                writer.add(f"corpus/dialogue_{i // 20:05d}/utterance_{i:07d}", row)
    for fragments in ("10 fragments", "1 fragment"):
        if fragments == "1 fragment":
            compact(store)
        code = f"from benchmarks.store import open_keys; open_keys({str(corpus.folder / 'keys')!r}, {keys})"
        runs = []
        for _ in range(5):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        best = {name: sorted(r[name] for r in runs)[2] for name in runs[0]}
        results.add(f"open 1,000,000 keys and read, {fragments}", backend, best["open"], (AT_MOST, 0.3), "s")
        results.add(f"memory for it, {fragments}", backend, best["memory"], (AT_MOST, 150), "MB")
        results.add(f"64 lookups, {fragments}", backend, best["lookup"], (AT_MOST, 1), "ms")
    shutil.rmtree(corpus.folder / "keys")


def open_keys(url: str, keys: int) -> None:
    """Measure, in a process of its own, what opening a large space costs; print JSON."""
    wanted = np.random.default_rng(0).integers(0, keys, (50, BATCH))
    named = [[f"corpus/dialogue_{i // 20:05d}/utterance_{i:07d}" for i in batch] for batch in wanted]
    before, opened = memory()["VmRSS"], []
    took = seconds(lambda: opened.append(Store.open(url).features["x-UTT"]) or opened[0].read(named[0]))
    peak = memory()["VmHWM"]
    lookup = compare({"lookup": lambda i: opened[0].positions(named[i])}, 50)["lookup"]
    print(json.dumps({"open": took, "memory": peak - before, "lookup": lookup * 1e3}))


def _codecs(results: Results, corpus: Corpus, clips: int) -> None:
    """Size against speed of every codec, on features that vary slowly in time as real ones do.

    Speed is per second of one core, whatever else the machine does.
    """
    random, data = np.random.default_rng(5), {}
    for i in range(clips):
        steps = random.normal(size=(250, WIDTH)).astype(np.float32)
        for t in range(1, len(steps)):
            steps[t] = 0.9 * steps[t - 1] + 0.44 * steps[t]
        data[f"clip{i}"] = steps.astype(np.float16)
    size, keys = sum(a.nbytes for a in data.values()), list(data)
    batches = [[keys[i] for i in random.integers(0, clips, BATCH)] for _ in range(6)]
    room = np.zeros(max(size // 2, BATCH * 250 * WIDTH), np.float16)
    for backend in BACKENDS:
        for codec in (None, *find_backend(backend).codecs):
            store = Store.create(corpus.folder / "codec", backend=backend)
            took = seconds(partial(_write_all, store, data, codec), time.process_time)
            space = store.features["x-FRA"]
            methods = {
                "random batches": lambda n, s=space: s.read(batches[n], out=room),
                "scan": lambda _, s=space: s.read(keys, out=room),
            }
            found = compare(methods, len(batches), best=True, clock=time.process_time)
            column, bytes_read = f"{backend} {codec or 'none'}", BATCH * 250 * WIDTH * 2
            results.add("codec: size / raw", column, space.size / size)
            results.add("codec: append", column, size / took / 1e6, unit="MB/s")
            results.add(
                "codec: random batches", column, bytes_read / found["random batches"] / 1e6, unit="MB/s"
            )
            results.add("codec: scan", column, size / found["scan"] / 1e6, unit="MB/s")
            shutil.rmtree(corpus.folder / "codec")


def _write_all(store: Store, data: dict[str, NDArray[Any]], codec: str | None) -> None:
    with store.features.writer(spec("x-FRA"), codec=codec) as writer:
        for key, array in data.items():
            writer.add(key, array)
