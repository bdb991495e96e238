"""Training against the usual way, on the same machine and data, and how it grows.

5,030 clips of 1024 + 768 + 5120 values, 6 classes, `attention` with 128 hidden units, batches of 32, Adam.
The usual way is `benchmarks.plain`. Both validate after each epoch; folds, model and settings are the same.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import plain
from benchmarks.corpora import CLASSES, WIDTHS, make_store
from benchmarks.measure import Results, memory, seconds
from mer_featurestore import Store
from mer_zoo.devices import has_bfloat16
from mer_zoo.planning import Plan, make_plan
from mer_zoo.settings import Settings
from mer_zoo.training import Fitted, Member

AT_LEAST, AT_MOST = ">=", "<="
HIDDEN, DROPOUT, FOLDS = 128, 0.3, 5
WALL = "wall"
SMALL = dict.fromkeys(WIDTHS, 256)


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Measure everything and print a table."""
    results, part = Results(), 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name:
        root = Path(name)
        large, features, label = make_store(root / "large", 5030 // part)
        clips = plain.Clips({key: x[:, 0] for key, x in features.items()}, label)
        _loading(results, large)
        _folds(results, large, clips, epochs=3, rounds=1 if quick else 2)
        _on_gpu(results, large, clips)
        del clips, features
        store, features, label = make_store(root / "small", 5030 // part, SMALL)
        _small(results, store, plain.Clips({key: x[:, 0] for key, x in features.items()}, label))
        _leaks(results, store)
        _growth(results, root, part)
    results.show("Training" + (" (quick: sizes too small to judge)" if quick else ""))


def plan_of(store: Store, model: str = "attention", **changes: Any) -> Plan:
    """Return the plan of a training of `HIDDEN` units with the benchmark's settings."""
    params = {"hidden": HIDDEN, "dropout": DROPOUT, **changes.pop("params", {})}
    precision = changes.pop("precision", "float32")
    settings = Settings(epochs=changes.pop("epochs", 1), patience=10_000, precision=precision)
    return make_plan(store, model, params=params, settings=settings, folds=FOLDS, **changes)


def fit_members(plan: Plan, members: Sequence[Member], device: str | None = None) -> list[Fitted]:
    """Train members of a plan."""
    from mer_zoo.fit import fit

    return fit(plan.task(), members, device=device or plan.device)


def _loading(results: Results, store: Store) -> None:
    """From opening the store to the first loss: features read, checked and standardised, models built."""
    from mer_zoo.stacked import Stack

    def first_step() -> None:
        plan = plan_of(Store.open(store.url))
        Stack(plan.task(), plan.members()).first_losses()

    first_step()
    results.add("store to first step, 5 folds", WALL, seconds(first_step), (AT_MOST, 2), "s")


def _folds(results: Results, store: Store, clips: plain.Clips, epochs: int, rounds: int) -> None:
    """Five folds of the baseline; in bfloat16 too, which is slower where the hardware does not have it."""
    plan = plan_of(store, epochs=epochs)
    folds = [(member.train.numpy(), member.valid.numpy()) for member in plan.members()]
    usual: list[plain.Trained] = []
    ours: list[list[Fitted]] = []
    usual_way = partial(plain.train, clips, folds, hidden=HIDDEN, dropout=DROPOUT, epochs=epochs)
    found = _race(
        lambda: usual.append(usual_way()), lambda: ours.append(fit_members(plan, plan.members())), rounds
    )
    for clock, (theirs, mine) in found.items():
        goal = (AT_LEAST, 2.5) if clock == WALL else None
        results.add("5 folds: times the usual way", clock, theirs / mine, goal)
        results.add("5 folds: usual, a fold and epoch", clock, theirs / (FOLDS * epochs), unit="s")
        results.add("5 folds: ours, a fold and epoch", clock, mine / (FOLDS * epochs), unit="s")
    half: list[list[Fitted]] = []
    plan_half = plan_of(store, epochs=epochs, precision="bfloat16")
    took = seconds(lambda: half.append(fit_members(plan_half, plan_half.members())))
    in_hardware = "in hardware" if has_bfloat16(plan.device) else "no hardware for it"
    what = f"5 folds: ours, bfloat16 ({in_hardware}), a fold and epoch"
    results.add(what, WALL, took / (FOLDS * epochs), unit="s")
    guessed = {
        "usual": usual[-1].predicted,
        "ours": _guesses(plan, ours[-1]),
        "ours, bfloat16": _guesses(plan_half, half[-1]),
    }
    _same_quality(results, clips.label, guessed)


def _guesses(plan: Plan, fitted: Sequence[Fitted]) -> NDArray[np.int64]:
    """Return the class of each clip by the fold that held it out."""
    guessed = np.zeros(len(plan.chosen.keys), np.int64)
    for member, each in zip(plan.members(), fitted, strict=True):
        guessed[member.valid.numpy()] = each.logits.argmax(1).numpy()
    return guessed


def _race(
    usual: Callable[[], object], ours: Callable[[], object], rounds: int
) -> dict[str, tuple[float, float]]:
    """Return the least seconds of both, turn about: on the wall, and of this process' CPU time.

    On a machine that does other things too only the CPU time says something, with OMP_NUM_THREADS=1.
    """
    clocks = {WALL: time.perf_counter, "CPU time": time.process_time}
    least = {clock: [float("inf")] * 2 for clock in clocks}
    for _ in range(rounds):
        for number, work in enumerate((usual, ours)):
            began = {name: clock() for name, clock in clocks.items()}
            work()
            for name, clock in clocks.items():
                least[name][number] = min(least[name][number], clock() - began[name])
    return {name: (times[0], times[1]) for name, times in least.items()}


def _same_quality(results: Results, label: NDArray[np.int64], found: Mapping[str, NDArray[np.int64]]) -> None:
    """WAF of each way over all clips, with 95 % intervals; those of both precisions must meet the usual's."""
    from mer_zoo.bootstrap import intervals, weighted_f1

    edges = {}
    for name, guessed in found.items():
        confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        np.add.at(confusion, (label, guessed), 1)
        results.add(f"5 folds: {name}, WAF", "", 100 * float(weighted_f1(confusion)), unit="%")
        edges[name] = intervals(confusion)["waf"]
        print(f"    95 % interval {edges[name]}", flush=True)
    overlap = min(e.high for e in edges.values()) - max(e.low for e in edges.values())
    results.add("5 folds: overlap of all WAF intervals", "", 100 * overlap, (AT_LEAST, 0), "%")


def _on_gpu(results: Results, store: Store, clips: plain.Clips) -> None:
    """50 settings of five folds on a GPU, where there is one, against the usual loop on it."""
    import torch

    if not torch.cuda.is_available():
        print("  no GPU here: its rows are left out", flush=True)
        return
    plan = plan_of(store)
    folds = [(member.train.numpy(), member.valid.numpy()) for member in plan.members()]
    usual_way = partial(
        plain.train, clips, folds[:1], hidden=HIDDEN, dropout=DROPOUT, epochs=1, device="cuda"
    )
    usual_way()
    usual = usual_way().seconds
    members = _copies(plan, 50)
    fit_members(plan, members, "cuda")
    ours = seconds(partial(fit_members, plan, members, "cuda"))
    results.add("GPU, 250 members: times the usual way", "", usual * len(members) / ours, (AT_LEAST, 40))


def _copies(plan: Plan, count: int) -> list[Member]:
    """Return the plan's members `count` times, with other seeds."""
    return [
        replace(member, seed=member.seed + i, name=f"{i}-{member.name}")
        for i in range(count)
        for member in plan.members()
    ]


def _small(results: Results, store: Store, clips: plain.Clips) -> None:
    """25 members of 3 x 256 values and 64 hidden units; of the usual way, five are timed."""
    epochs = 2
    plan = plan_of(store, epochs=epochs, params={"hidden": 64})
    folds = [(member.train.numpy(), member.valid.numpy()) for member in plan.members()]
    usual_way = partial(plain.train, clips, folds, hidden=64, dropout=DROPOUT, epochs=epochs)
    found = _race(usual_way, lambda: fit_members(plan, _copies(plan, 5)), 2)
    for clock, (theirs, mine) in found.items():
        goal = (AT_LEAST, 8) if clock == WALL else None
        results.add("25 small members: times the usual way", clock, 5 * theirs / mine, goal)
        results.add("25 small: usual, a member and epoch", clock, theirs / (5 * epochs) * 1e3, unit="ms")
        results.add("25 small: ours, a member and epoch", clock, mine / (25 * epochs) * 1e3, unit="ms")


def _leaks(results: Results, store: Store) -> None:
    """Memory that epochs add after the first three of 15, in a process of its own."""
    found = _in_a_process(f"leak({store.url!r})")
    results.add("memory added by epochs 4 to 15", WALL, found["added"], (AT_MOST, 10), "MB")


def leak(url: str) -> None:
    """Train 15 epochs and print what the last twelve added to memory, as JSON."""
    from mer_zoo.fit import fit

    plan, noted = plan_of(Store.open(url), epochs=15, params={"hidden": 64}), []
    fit(plan.task(), plan.members(), progress=lambda _: noted.append(memory()["VmRSS"]))
    print(json.dumps({"added": noted[-1] - noted[3 * FOLDS - 1]}))


def _in_a_process(call: str) -> dict[str, float]:
    """Run a function of this module in a fresh process, whose memory holds nothing else; return its JSON."""
    code = f"from benchmarks import train; train.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _growth(results: Results, root: Path, part: int) -> None:
    """Time and peak memory as clips, frames, members and modalities grow, from one base."""
    base = {"clips": 1000, "frames": 1, "members": 5, "modalities": 3}
    steps = [
        *({"clips": n} for n in (1000, 4000, 16_000)),
        *({"frames": t, "clips": 200} for t in (1, 25, 100)),
        *({"members": m} for m in (25, 100)),
        *({"modalities": m} for m in (1, 2)),
    ]
    for number, step in enumerate(steps):
        case = {**base, **step}
        case["clips"] = max(case["clips"] // part, 60)
        widths = dict.fromkeys(list(WIDTHS)[: case["modalities"]], 256)
        store, *_ = make_store(root / f"case{number}", case["clips"], widths, frames=case["frames"])
        found = _in_a_process(f"grown({store.url!r}, {case['frames']}, {case['members']})")
        what = f"agt, an epoch of {case['clips']} clips, {case['frames']} frames"
        what = f"{what}, {case['members']} members, {case['modalities']} modalities"
        results.add(what, WALL, found["time"], unit="s")
        results.add(what, "peak memory above the start", found["peak"], unit="MB")


def grown(url: str, frames: int, members: int) -> None:
    """Train two epochs; print the seconds of the second and the peak of memory above the start, as JSON."""
    from mer_zoo.fit import fit

    before, ends = memory()["VmRSS"], []
    level = "utt" if frames == 1 else "frame"
    plan = plan_of(Store.open(url), "agt", level=level, epochs=2, params={"hidden": 32})
    fit(plan.task(), _copies(plan, members // FOLDS), progress=lambda _: ends.append(time.perf_counter()))
    print(json.dumps({"time": ends[-1] - ends[members - 1], "peak": memory()["VmHWM"] - before}))
