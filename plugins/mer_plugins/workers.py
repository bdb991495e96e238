"""One extraction by several processes on this machine: a GPU each, or a share of the CPU's cores each.

The clips that are missing are dealt out in turn. Every process has its own extractor and writes its own
fragments; the store sees to it that a key is stored once. What a process leaves undone when it is killed,
the next run does.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, cast

from mer_featurestore.errors import MerError
from mer_plugins.errors import PluginError
from mer_plugins.interrupts import Stop, graceful
from mer_plugins.pipeline import ExtractReport, How, Progress, extract
from mer_plugins.plan import Plan, Request, plan

if TYPE_CHECKING:
    from mer_featurestore import Store

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def extract_in_processes(
    store: "Store",
    request: Request,
    devices: Sequence[str],
    how: How | None = None,
    progress: Progress | None = None,
    planned: Plan | None = None,
) -> ExtractReport:
    """Extract with a process per device.

    On CPUs the cores are shared out, unless `OMP_NUM_THREADS` says how many threads a process has: with that
    equal, features are those of a single process to the last bit, otherwise torch may round the last one
    differently.

    Args:
        store: Moved forward to what was written.
        request: What to extract; its own device is not used.
        devices: One per process, e.g. `("cuda:0", "cuda:1")` or `("cpu",) * 4`.
        how: How each process runs; `workers` are its decoding threads, 0 shares the cores out.
        progress: Told the sums.
        planned: What `plan` makes of the request, where somebody has looked at it already.

    Raises:
        PluginError: A process died; the others have done and committed their shares.
        MerError: What stopped one of the processes; the others were told to stop, and committed.
    """
    how = how or How()
    planned = planned or plan(store, request)
    report = ExtractReport.of(planned, how)
    shares = _shares(planned, devices)
    if shares:
        try:
            _Crew(store, request, how, shares, report, progress).run()
        finally:
            store.refresh()
    return report


def _shares(planned: Plan, devices: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Deal the clips out in turn: device and keys per process, none without keys."""
    keys = [clip.key for clip in planned.todo]
    dealt = [(device, tuple(keys[k :: len(devices)])) for k, device in enumerate(devices)]
    return [(device, share) for device, share in dealt if share]


class _Crew:
    """The processes at work."""

    def __init__(
        self,
        store: "Store",
        request: Request,
        how: How,
        shares: Sequence[tuple[str, tuple[str, ...]]],
        report: ExtractReport,
        progress: Progress | None,
    ) -> None:
        self.report, self.progress = report, progress
        self.context: SpawnContext = multiprocessing.get_context("spawn")
        cores = max(1, (os.cpu_count() or 1) // len(shares))
        how = replace(how, workers=how.workers or min(8, cores))
        self.tasks = [
            (store.url, replace(request, keys=keys, options=replace(request.options, device=device)), how)
            for device, keys in shares
        ]
        self.cores = cores
        self.parts: dict[int, ExtractReport] = {}
        self.counts = [(0, 0)] * len(shares)
        self.stopped_by: MerError | None = None
        self.died: PluginError | None = None

    def run(self) -> None:
        """Start them, listen to them until all have ended, and add up what they did."""
        with graceful() as stop:
            self._listen(self._start(), stop)
        report = self.report
        parts = list(self.parts.values())
        report.add_up(parts, len(parts))
        for stage in {"load", "total"} & report.seconds.keys():  # of the whole: the longest
            report.seconds[stage] = max(part.seconds.get(stage, 0.0) for part in parts)
        report.interrupted = stop.asked and report.done + len(report.failed) < report.planned
        if error := self.stopped_by or (None if stop.asked else self.died):
            raise error

    def _start(self) -> "dict[Connection, tuple[int, SpawnProcess]]":
        crew = {}
        with _threads(self.cores), _no_interrupts():
            for number, task in enumerate(self.tasks):
                ours, theirs = self.context.Pipe(duplex=False)
                process = self.context.Process(target=_work, args=(theirs, *task), daemon=True)
                process.start()
                theirs.close()  # so that reading ends when the process does
                crew[ours] = number, process
        return crew

    def _listen(self, crew: dict[Connection, tuple[int, SpawnProcess]], stop: Stop) -> None:
        told = False
        while crew:
            for ready in wait(list(crew), timeout=0.2):
                number, process = crew[cast("Connection", ready)]
                try:
                    self._take(number, *cast("Connection", ready).recv())
                except EOFError:
                    process.join()
                    self._check_end(number, process)
                    del crew[cast("Connection", ready)]
            if (stop.asked or self.stopped_by) and not told:
                told = True
                for _, process in crew.values():
                    process.terminate()  # SIGTERM: they commit what is whole

    def _take(self, number: int, kind: str, told: Any) -> None:
        if kind == "report":
            self.parts[number] = told
        elif kind == "error":
            self.stopped_by = self.stopped_by or told
        elif self.progress is not None:
            stage, done, failed = told
            self.counts[number] = (done, failed)
            done, failed = (sum(column) for column in zip(*self.counts, strict=True))
            self.progress(stage, done, failed, self.report.planned)

    def _check_end(self, number: int, process: SpawnProcess) -> None:
        if number not in self.parts and self.stopped_by is None:
            self.died = PluginError(
                f"worker process {number} ended with code {process.exitcode}",
                "what was committed is kept; the same command does the rest",
            )


def _work(told: Connection, url: str, request: Request, how: How) -> None:
    """Extract one share in a process of its own, and report."""
    from mer_featurestore import Store

    os.setpgrp()  # Ctrl-C in a terminal is for the parent, which passes it on

    def progress(stage: str, done: int, failed: int, total: int) -> None:  # noqa: ARG001 - the total is the parent's
        try:
            told.send(("progress", (stage, done, failed)))
        except BrokenPipeError:  # the parent was killed: commit what is whole, and end
            os.kill(os.getpid(), signal.SIGTERM)

    with suppress(BrokenPipeError), told:
        try:
            store = Store.open(url)
            told.send(("report", extract(store, plan(store, request), how, progress)))
        except MerError as error:
            told.send(("error", error))


@contextmanager
def _threads(cores: int) -> Iterator[None]:
    """Have processes started within use so many threads for arithmetic, unless the user has said how many."""
    missing = [name for name in _THREADS if name not in os.environ]
    if "OMP_NUM_THREADS" not in missing:
        missing = []
    os.environ |= dict.fromkeys(missing, str(cores))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Have processes started within ignore Ctrl-C until they have a process group of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
