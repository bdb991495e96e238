"""One extraction by the machines of a Ray cluster.

The clips that are missing are dealt out in shares, a task each, with a GPU or a core of its own. Every task
writes its own fragments and commits them; the store sees to it that a key is stored once. So a task that dies
with its machine is simply run again elsewhere, and does what is missing. All machines need the same packages
and plugins, and the store, the media and the weights at the same places: a shared file system, or S3.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import MerError
from mer_plugins.errors import PluginError
from mer_plugins.interrupts import Stop, graceful
from mer_plugins.pipeline import ExtractReport, How, Progress, extract
from mer_plugins.plan import Plan, Request, plan

if TYPE_CHECKING:
    from mer_featurestore import Store

SHARES, LEAST, MOST = 4, 16, 2000  # a slot's shares, so that fast machines do more; clips of one
RETRIES = 3  # of a task whose process or machine died
LOCAL = "local"


def extract_on_ray(
    store: "Store",
    request: Request,
    address: str = "auto",
    how: How | None = None,
    progress: Progress | None = None,
    planned: Plan | None = None,
) -> ExtractReport:
    """Extract on a Ray cluster.

    A task takes a GPU where the request's device is one, or is `auto` and the cluster has some; else a core.
    The report leaves out what a process that died had committed; the store has it.

    Args:
        store: On storage that all machines reach; moved forward to what was written.
        request: What to extract.
        address: Of the cluster, as `ray.init` takes it: `auto` for the one this machine belongs to,
            `host:port`, `ray://host:port`; `local` starts one on this machine and stops it in the end.
        how: How each task runs; `workers` are its decoding threads, 0 takes one without a GPU.
        progress: Told when a task ends.
        planned: What `plan` makes of the request, where somebody has looked at it already.

    Raises:
        PluginError: Ray is missing, there is no such cluster, it has no GPU, or a task died too often; the
            others have committed what they did.
        MerError: What stopped one of the tasks; the others were told to stop, and committed.
    """
    how = how or How()
    planned = planned or plan(store, request)
    report = ExtractReport.of(planned, how)
    if planned.todo:
        with _cluster(address) as ray:
            try:
                _Tasks(ray, store, planned, request, how, report, progress).run()
            finally:
                store.refresh()
    return report


class _Tasks:
    """The tasks of one extraction."""

    def __init__(
        self,
        ray: Any,
        store: "Store",
        planned: Plan,
        request: Request,
        how: How,
        report: ExtractReport,
        progress: Progress | None,
    ) -> None:
        self.ray, self.report, self.progress = ray, report, progress
        gpu, self.slots = _slots(ray, request.options.device)
        device = "cuda" if gpu else "cpu"  # Ray shows a task its own GPU only
        request = replace(request, options=replace(request.options, device=device))
        how = replace(how, workers=how.workers or (0 if gpu else 1))
        url = str(store.storage.local or store.url)  # a relative path means something else over there
        task = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=RETRIES)(work)
        self.waiting = [
            task.remote(url, replace(request, keys=keys), how) for keys in deal(planned, self.slots)
        ]
        self.parts: list[ExtractReport] = []
        self.stopped_by: MerError | None = None

    def run(self) -> None:
        """Listen until all have ended, and add up what they did."""
        began, report = time.monotonic(), self.report
        with graceful() as stop:
            self._listen(stop)
        report.add_up(self.parts, self.slots)
        report.seconds["total"] = time.monotonic() - began
        report.interrupted = stop.asked and report.done + len(report.failed) < report.planned
        if self.stopped_by is not None and not stop.asked:
            raise self.stopped_by

    def _listen(self, stop: Stop) -> None:
        self._tell("loading")
        told = False
        while self.waiting:
            ended, self.waiting = self.ray.wait(self.waiting, timeout=0.5)
            for task in ended:
                self._take(task)
                self._tell("extracting")
            if (stop.asked or self.stopped_by) and not told:
                told = True
                for task in self.waiting:
                    self.ray.cancel(task)  # as Ctrl-C there: they commit what is whole

    def _take(self, task: Any) -> None:
        try:
            told = self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:
            return
        except self.ray.exceptions.RayError as error:
            told = PluginError(
                f"a task of the Ray cluster failed: {_last_line(error)}",
                "what was committed is kept; the same command does the rest",
            )
        if isinstance(told, ExtractReport):
            self.parts.append(told)
        else:
            self.stopped_by = self.stopped_by or told

    def _tell(self, stage: str) -> None:
        if self.progress is not None:
            done = sum(part.done for part in self.parts)
            failed = sum(len(part.failed) for part in self.parts)
            self.progress(stage, done, failed, self.report.planned)


def deal(planned: Plan, slots: int) -> list[tuple[str, ...]]:
    """Return the keys of each task."""
    keys = [clip.key for clip in planned.todo]
    size = min(max(-(-len(keys) // (slots * SHARES)), LEAST), MOST)
    return [tuple(keys[first : first + size]) for first in range(0, len(keys), size)]


def work(url: str, request: Request, how: How) -> ExtractReport | MerError:
    """Extract one share in a task, and report; an error is given back whole."""
    from mer_featurestore import Store

    try:
        store = Store.open(url)
        return extract(store, plan(store, request), how)
    except MerError as error:
        return error


def _slots(ray: Any, device: str) -> tuple[int, int]:
    """Return the GPUs of a task, and how many tasks run at once."""
    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if device.startswith("cuda") and not gpus:
        raise PluginError("no machine of the Ray cluster has a GPU", "use --device auto or cpu")
    gpu = int(device != "cpu" and gpus > 0)
    return gpu, max(1, gpus if gpu else cores)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Join a cluster, unless this process belongs to one already; leave it in the end."""
    _check_answers(address)
    try:
        import ray
    except ImportError as error:
        raise PluginError("extraction on Ray needs ray", "pip install 'mer-fs[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    ours: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise PluginError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> PluginError:
    return PluginError(
        f"no Ray cluster at {address!r}: {_last_line(error)}",
        "start one with `ray start --head`, name its address, or use --ray local",
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
