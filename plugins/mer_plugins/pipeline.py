"""The extraction pipeline, the same for every extractor.

Plan only missing keys -> decode ahead in threads -> batches of like cost -> encode -> pool -> pack -> commit
every so often. A clip that fails is quarantined with its reason and the run goes on. What is committed is
never done again: kill the process at any moment and run the same command to finish the rest.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, MerError
from mer_featurestore.records import Clip
from mer_plugins.ahead import prepare_ahead
from mer_plugins.batches import Encoded, Limit, encode, in_batches
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.interrupts import graceful
from mer_plugins.plan import Plan, Request, plan
from mer_plugins.pooling import pool_down

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.writer import FeatureWriter

__all__ = ["ExtractReport", "How", "Plan", "Progress", "Request", "extract", "plan"]

HOPELESS = 5  # unexpected errors in a row from the start: it is the plugin, not the clips


class Progress(Protocol):
    """Is told how an extraction goes on."""

    def __call__(self, stage: str, done: int, failed: int, total: int) -> None:
        """Take note: stage is `loading` or `extracting`; clips done and failed of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to run an extraction; nothing here changes a feature.

    Attributes:
        batch: Most cost in a batch (see the extractor's `cost`); None takes the extractor's own.
        workers: Decoding threads; 0 takes one per core, at most 8.
        commit_every: Clips between commits.
        commit_seconds: Seconds between commits, when clips are slow.
        strict: Stop at the first clip that fails.
        backend: `zarr` or `hdf5`; None is the store's own.
        codec: Compression; None stores plainly.
        command: For the journal.
        message: For the journal.
    """

    batch: float | None = None
    workers: int = 0
    commit_every: int = 1000
    commit_seconds: float = 60.0
    strict: bool = False
    backend: str | None = None
    codec: str | None = None
    command: str = ""
    message: str = ""


@dataclass(slots=True, kw_only=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        spaces: Names of the spaces.
        planned: Clips that were to be done.
        skipped: Clips that were in every space already.
        left_alone: Clips in quarantine from earlier runs.
        done: Clips encoded now.
        failed: Key -> reason of the clips quarantined now.
        interrupted: Whether it was told to stop; what is done is committed.
        seconds: Per stage: `load`, `wait` (for decoding), `encode`, `write`, `total`; and `decode`, summed
            over the worker threads.
        media_seconds: Length of the media encoded.
        batch: Most cost in a batch at the end; lower than asked for when memory ran out.
    """

    spaces: tuple[str, ...]
    planned: int
    skipped: int
    left_alone: int
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    media_seconds: float = 0.0
    batch: float = 0.0

    @classmethod
    def of(cls, planned: Plan, how: How) -> "ExtractReport":
        """Return the report of an extraction that has not begun."""
        return cls(
            spaces=planned.spaces,
            planned=len(planned.todo),
            skipped=planned.done,
            left_alone=planned.quarantined,
            batch=how.batch or planned.extractor.batch_cost,
        )

    def add_up(self, parts: "Sequence[ExtractReport]", abreast: int) -> None:
        """Take in what parts of it did, of which so many ran side by side.

        Their seconds of a stage are added up and divided by that, but for `decode`, which is a sum over
        threads already.
        """
        for part in parts:
            self.done += part.done
            self.failed |= part.failed
            self.media_seconds += part.media_seconds
            self.interrupted |= part.interrupted
            self.batch = min(self.batch, part.batch)
        for stage in sorted({stage for part in parts for stage in part.seconds}):
            spent = sum(part.seconds.get(stage, 0.0) for part in parts)
            self.seconds[stage] = spent if stage == "decode" else spent / abreast

    @property
    def clips_per_second(self) -> float:
        """Clips done per second of wall time after loading."""
        return self.done / self._running if self._running else 0.0

    @property
    def realtime_factor(self) -> float:
        """Seconds of media per second of wall time after loading; 0 where media have no length."""
        return self.media_seconds / self._running if self._running else 0.0

    @property
    def bottleneck(self) -> str:
        """The stage the run spent most of its time in: `decode`, `encode` or `write`."""
        spent = {name: self.seconds.get(name, 0.0) for name in ("wait", "encode", "write")}
        slowest = max(spent, key=lambda name: spent[name])
        return "decode" if slowest == "wait" else slowest

    @property
    def _running(self) -> float:
        return self.seconds.get("total", 0.0) - self.seconds.get("load", 0.0)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "spaces": list(self.spaces),
            "planned": self.planned,
            "skipped": self.skipped,
            "left_alone": self.left_alone,
            "done": self.done,
            "failed": self.failed,
            "interrupted": self.interrupted,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "clips_per_second": round(self.clips_per_second, 3),
            "realtime_factor": round(self.realtime_factor, 3),
            "bottleneck": self.bottleneck if self.done else "",
            "batch": self.batch,
        }


def extract(
    store: "Store", planned: Plan, how: How | None = None, progress: Progress | None = None
) -> ExtractReport:
    """Carry out a plan.

    Ctrl-C or SIGTERM stop it after the batch at hand and commit what is whole.

    Raises:
        ClipError: A clip failed and `how.strict` is set; what was done before is committed.
        PluginError: The extractor cannot load, or fails on every clip for no fault of theirs.
        StoreError: The store cannot be written.
    """
    how = how or How()
    report = ExtractReport.of(planned, how)
    if planned.todo:
        _Run(store, planned, how, report, progress or _silent).run()
    return report


def _silent(stage: str, done: int, failed: int, total: int) -> None:
    """Tell nobody."""


class _Run:
    """One extraction at work."""

    def __init__(
        self, store: "Store", planned: Plan, how: How, report: ExtractReport, progress: Progress
    ) -> None:
        self.store, self.plan, self.how, self.report, self.progress = store, planned, how, report, progress
        self.extractor = planned.extractor
        self.limit = Limit(report.batch)
        self.clock = _Clock(report.seconds)
        self.works = False  # whether any clip has been encoded
        self.doubtful: list[tuple[Clip, str]] = []  # unexpected failures before that
        self.stopped_by: MerError | None = None

    def run(self) -> None:
        """Load, go through the clips, and always let go of what was loaded."""
        how, specs = self.how, self.plan.specs
        writer = self.store.features.writer(
            *specs, command=how.command, message=how.message, backend=how.backend, codec=how.codec
        )
        try:
            with self.clock.time("total"):
                self._tell("loading")
                with self.clock.time("load"):
                    self.extractor.load()
                self._go_through(writer)
        finally:
            self.extractor.close()
        self.report.batch = self.limit.cost
        if self.stopped_by is not None:
            raise self.stopped_by

    def _go_through(self, writer: "FeatureWriter") -> None:
        workers = self.how.workers or min(8, os.cpu_count() or 1)
        ahead = prepare_ahead(self.extractor.prepare, self.plan.todo, workers)
        with graceful() as stop, closing(ahead), writer:
            self._tell("extracting")
            since, uncommitted = time.monotonic(), 0
            for batch in self._batches(ahead):
                for encoded in self._encoded(batch):
                    self._keep(writer, encoded)
                uncommitted += len(batch)
                self._tell("extracting")
                if stop.asked or self.stopped_by:
                    break
                if (
                    uncommitted >= self.how.commit_every
                    or time.monotonic() - since >= self.how.commit_seconds
                ):
                    self._flush(writer)
                    since, uncommitted = time.monotonic(), 0
            self._quarantine_doubtful(writer)
            self._flush(writer)
            report = self.report
            report.interrupted = stop.asked and report.done + len(report.failed) < report.planned

    def _batches(self, ahead: Iterator[Any]) -> Iterator[Any]:
        """Pass the batches on, timing how long they are waited for."""
        batches = in_batches(ahead, self.extractor.cost, self.limit, self.how.commit_every)
        while True:
            with self.clock.time("wait"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _encoded(self, batch: Any) -> list[Encoded]:
        for item in batch:
            self.clock.add("decode", item.seconds)
        with self.clock.time("encode"):
            return list(encode(self.extractor, batch, self.limit))

    def _flush(self, writer: "FeatureWriter") -> None:
        with self.clock.time("write"):
            writer.flush()

    def _keep(self, writer: "FeatureWriter", encoded: Encoded) -> None:
        """Hand one clip to the writer, or its failure to quarantine."""
        clip = encoded.item.clip
        if encoded.error is None:
            try:
                with self.clock.time("write"):
                    writer.add(clip.key, *self._arrays(clip, encoded.rows))
            except (ClipError, BadInput) as error:
                encoded = Encoded(encoded.item, None, error)
        if encoded.error is not None:
            self._fail(writer, clip, encoded.error)
            return
        self.works = True
        self._quarantine_doubtful(writer)
        self.report.done += 1
        seconds = self.extractor.seconds(encoded.item.value)
        self.report.media_seconds += seconds if seconds == seconds else 0.0

    def _arrays(self, clip: Clip, rows: NDArray[np.float32]) -> list[NDArray[np.float32] | None]:
        """Return the clip's array per space; None where the space has the clip already."""
        arrays: list[NDArray[np.float32] | None] = []
        for spec, missing in zip(self.plan.specs, self.plan.missing, strict=True):
            if clip.key not in missing:
                arrays.append(None)
            elif spec.level == "frame":
                arrays.append(self._frames(rows))
            elif len(rows):
                arrays.append(self.extractor.pool(rows))
            else:
                raise ClipError("the extractor gave no rows to pool")
        return arrays

    def _frames(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        hz, wanted = self.extractor.frame_hz, self.plan.frame_hz
        kept = rows if hz is None or wanted is None else pool_down(rows, hz, wanted)
        return self.extractor.frame_rows(kept)

    def _fail(self, writer: "FeatureWriter", clip: Clip, error: Exception) -> None:
        if self.stopped_by is not None:
            return
        expected = isinstance(error, MerError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        if self.how.strict:
            self.stopped_by = ClipError(
                f"clip {clip.key} failed: {reason}", "leave --strict out to quarantine it and go on"
            )
        elif expected or self.works:
            self._quarantine(writer, clip, reason)
        else:
            self.doubtful.append((clip, reason))
            if len(self.doubtful) >= HOPELESS:
                self.doubtful, self.stopped_by = [], _broken(self.plan.card.name, reason)

    def _quarantine(self, writer: "FeatureWriter", clip: Clip, reason: str) -> None:
        pairs = zip(self.plan.specs, self.plan.missing, strict=True)
        writer.quarantine(clip.key, reason, *(spec.name for spec, missing in pairs if clip.key in missing))
        self.report.failed[clip.key] = reason

    def _quarantine_doubtful(self, writer: "FeatureWriter") -> None:
        for clip, reason in self.doubtful:
            self._quarantine(writer, clip, reason)
        self.doubtful = []

    def _tell(self, stage: str) -> None:
        self.progress(stage, self.report.done, len(self.report.failed), self.report.planned)


def _broken(plugin: str, reason: str) -> PluginError:
    return PluginError(
        f"{plugin} fails on every clip: {reason}",
        "this looks like a fault of the plugin or its installation, not of the clips",
    )


class _Clock:
    """Adds up the seconds of stages."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)
