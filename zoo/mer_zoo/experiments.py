"""What every experiment shares: runs made once, lines with intervals, a figure, and a record in the store.

An experiment trains (or takes) runs, lets them decide about the same clips, and tells each line's mean score
over seeds with a bootstrap interval over clips, and its difference from the first line, drawn on the same
clips.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.bootstrap import SEED, Interval, confusions, percentile, resample, scores_of
from mer_zoo.errors import ZooError
from mer_zoo.predict import predict
from mer_zoo.registry import complete_params, find_model
from mer_zoo.runs import EXPERIMENT, Run, dump, find_run
from mer_zoo.settings import Settings
from mer_zoo.spaces import choose
from mer_zoo.train import train
from mer_zoo.trainset import TEST, default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store

FIGURE = "figure.png"
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an experiment's table.

    Attributes:
        name: What was done.
        waf: Mean over seeds.
        waf_interval: 95 % bootstrap interval of that mean, over clips.
        uar: Likewise.
        uar_interval: Likewise.
        gain: WAF above the first line's.
        gain_interval: Its 95 % interval, both scored on the same draws.
        uar_gain: UAR above the first line's.
        uar_gain_interval: Likewise.
        seeds: How many trainings, or draws.
        facts: What else is told of it.
    """

    name: str
    waf: float
    waf_interval: Interval
    uar: float
    uar_interval: Interval
    gain: float
    gain_interval: Interval
    uar_gain: float
    uar_gain_interval: Interval
    seeds: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        names = ("waf", "uar", "gain", "uar_gain")
        scores = {name: [getattr(self, name), *getattr(self, f"{name}_interval")] for name in names}
        return {"name": self.name, **scores, "seeds": self.seeds, **self.facts}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Line":
        """Undo `to_json`; what an earlier version did not measure is NaN."""
        facts = {name: value for name, value in document.items() if name not in cls.__dataclass_fields__}
        scores: dict[str, Any] = {}
        for name in ("waf", "uar", "gain", "uar_gain"):
            scores[name], *interval = document.get(name, (math.nan,) * 3)
            scores[f"{name}_interval"] = Interval(*interval)
        return cls(name=document["name"], seeds=document["seeds"], facts=facts, **scores)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment that is on record.

    Attributes:
        record: Name of the record in the store; it holds `lines.json` and, with matplotlib, `figure.png`.
        kind: Which experiment.
        judged: What the lines were judged on.
        lines: Its table.
        notices: What a person should know.
    """

    record: str
    kind: str
    judged: str
    lines: tuple[Line, ...]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        lines = [line.to_json() for line in self.lines]
        plain = {"record": self.record, "kind": self.kind, "judged": self.judged}
        return {**plain, "lines": lines, "notices": list(self.notices)}


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the runs of an experiment are trained, and what they are judged on.

    Attributes:
        name: Stem of the runs' names.
        features: Spaces; None takes the only one of each modality.
        seeds: How many trainings of each line, with seeds 0, 1 …
        folds: Of each.
        settings: Of training.
        judge: Split whose human labels are the truth.
        labels: Layer whose human labels train; None takes `gold`, or the only one.
        truth: Layer that has the labels that judge; None takes the one that trains.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        ZooError: Fewer seeds than one.
    """

    name: str
    features: tuple[str, ...] | None = None
    seeds: int = 1
    folds: int = 5
    settings: Settings = field(default_factory=Settings)
    judge: str = TEST
    labels: str | None = None
    truth: str | None = None
    device: str = "auto"
    command: str = ""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ZooError(f"{self.seeds} seeds", "use 1 or more")


@dataclass(frozen=True)
class Exam:
    """The clips that lines are judged on.

    Attributes:
        labels: Layer that trains.
        truth: Layer of their labels.
        classes: C names, of the layer that trains.
        keys: n clips.
        label: int64 `[n]`.
    """

    labels: str
    truth: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    label: NDArray[np.int64]


def set_exam(store: "Store", course: Course) -> Exam:
    """Return the clips of the course's split that people labelled.

    Raises:
        UnknownName: No such split or layer.
        ZooError: There is none.
    """
    labels = course.labels or default_layer(store)
    known = human_labels(store, course.truth or labels, course.judge)
    classes, keys = tuple(store.labels.resolve(labels).classes), tuple(sorted(known))
    label = class_indices(known, keys, classes, labels)
    return Exam(labels, course.truth or labels, classes, keys, label)


def trained(
    store: "Store",
    course: Course,
    line: str,
    model: str,
    *,
    labels: str,
    params: Mapping[str, Any] | None = None,
    features: Sequence[str] | None = None,
) -> list[Run]:
    """Train a line with each seed, or take the runs that are there from an earlier, interrupted time.

    Raises:
        ZooError: A run of that name was trained otherwise.
    """
    names = [f"{course.name}.{line}.s{seed}" for seed in range(course.seeds)]
    reads = features or course.features
    for seed, name in enumerate(names):
        if name in store.runs:
            _check_same(store, find_run(store, name), model, labels, params or {}, reads, seed, course)
            continue
        train(
            store,
            model,
            features=reads,
            labels=labels,
            folds=course.folds,
            seed=seed,
            params=params,
            settings=course.settings,
            device=course.device,
            name=name,
            command=course.command,
        )
    return [find_run(store, name) for name in names]


def decisions(store: "Store", course: Course, exam: Exam, runs: Sequence[Run]) -> NDArray[np.int64]:
    """Return what runs decide about the exam's clips, int64 `[S, n]`; -1 where one has no features."""
    place = {key: i for i, key in enumerate(exam.keys)}
    said = np.full((len(runs), len(exam.keys)), -1, np.int64)
    for s, run in enumerate(runs):
        found = predict(store, run, keys=exam.keys, device=course.device)
        index = np.array([exam.classes.index(name) for name in found.classes])
        said[s, [place[key] for key in found.keys]] = index[found.probs.argmax(1)]
    return said


def measure(
    label: NDArray[np.int64],
    said: Mapping[str, NDArray[np.int64]],
    classes: int,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    resamples: int = RESAMPLES,
) -> tuple[Line, ...]:
    """Score lines on the same clips; the first is what the others are compared with.

    Args:
        label: int64 `[n]`.
        said: Line -> decisions int64 `[S, n]`; a clip that any line decides nothing about (-1) is left out
            of all.
        classes: C.
        facts: Line -> what else is told of it.
        resamples: Of the bootstrap over clips.

    Raises:
        ZooError: No clip is left.
    """
    everything = np.concatenate(list(said.values()))
    there = (everything >= 0).all(0)
    if not there.any():
        raise ZooError("no clip is decided about by every line", "judge them on clips that have all features")
    cells, counts = np.unique(np.vstack([label, everything])[:, there], axis=1, return_counts=True)
    drawn = np.concatenate([counts[None], resample(counts, resamples, SEED)])
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    row = 1
    for decided in said.values():
        each = [_scores(drawn, cells[0] * classes + cells[row + s], classes) for s in range(len(decided))]
        found.append((np.mean([w for w, _ in each], axis=0), np.mean([u for _, u in each], axis=0)))
        row += len(decided)
    return tuple(
        _line(name, len(said[name]), (waf, uar), found[0], (facts or {}).get(name, {}))
        for name, (waf, uar) in zip(said, found, strict=True)
    )


def keep(
    store: "Store",
    kind: str,
    judged: str,
    lines: Sequence[Line],
    *,
    parents: Sequence[str],
    facts: Mapping[str, Any],
    notices: Sequence[str] = (),
    command: str = "",
    attrs: Mapping[str, Any] | None = None,
    draw: Callable[[Path], Path] | None = None,
) -> Experiment:
    """Put an experiment on record, with its figure where matplotlib is installed.

    Args:
        store: The store; it moves to the commit that adds the record.
        kind: Which experiment; records are numbered by it.
        judged: What the lines were judged on.
        lines: Its table.
        parents: What it stands on.
        facts: What else goes into `lines.json`.
        notices: What a person should know.
        command: For the journal.
        attrs: What else the journal says of it.
        draw: Draws the figure at the path it is given; None draws the lines' WAF.
    """
    document = {"kind": kind, "judged": judged, **facts, "lines": [line.to_json() for line in lines]}
    with TemporaryDirectory() as folder:
        files: dict[str, bytes | Path] = {"lines.json": dump(document)}
        if find_spec("matplotlib") is not None:
            from mer_zoo.report.experiments import write_lines

            draw = draw or partial(write_lines, lines, judged)
            files[FIGURE] = draw(Path(folder) / FIGURE)
        bundle = store.runs.add_numbered(
            kind,
            files,
            parents=tuple(dict.fromkeys(parents)),
            attrs={**(attrs or {}), "type": EXPERIMENT, "kind": kind, "judged": judged, "lines": len(lines)},
            command=command,
            message=f"{kind} on {judged}: {', '.join(f'{line.name} {line.waf:.4f}' for line in lines)}",
        )
    told = tuple(notices)
    return Experiment(record=bundle.name, kind=kind, judged=judged, lines=tuple(lines), notices=told)


def read_experiment(store: "Store", name: str) -> tuple[Experiment, dict[str, Any]]:
    """Return an experiment on record, and all that its record says as plain JSON values.

    Raises:
        UnknownName: There is no such record.
    """
    document: dict[str, Any] = store.runs[name].json("lines.json")
    lines = tuple(Line.from_json(line) for line in document["lines"])
    return Experiment(record=name, kind=document["kind"], judged=document["judged"], lines=lines), document


def _check_same(
    store: "Store",
    run: Run,
    model: str,
    labels: str,
    params: Mapping[str, Any],
    features: Sequence[str] | None,
    seed: int,
    course: Course,
) -> None:
    config, card = run.config, find_model(model)
    given = complete_params(card, params)
    differs = (config.model, config.labels, config.seed, config.folds_asked, config.settings) != (
        model,
        labels,
        seed,
        course.folds,
        course.settings,
    ) or any(config.params[name] != value for name, value in given.items() if name in params)
    if differs or config.inputs != choose(store, card, features):
        raise ZooError(f"there is a run {run.name!r} that was trained otherwise", "choose another --as")


def _scores(
    drawn: NDArray[np.int64], place: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return WAF and UAR `[R + 1]` of counts `[R + 1, K]` whose kind k falls into cell `place[k]`."""
    scores = scores_of(confusions(drawn, place, classes))
    return scores["waf"], scores["uar"]


def _line(
    name: str,
    seeds: int,
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    first: tuple[NDArray[np.float64], NDArray[np.float64]],
    facts: Mapping[str, Any],
) -> Line:
    """Sum up WAF and UAR, each `[R + 1]` with what was seen before R draws, and those of the first line."""
    (waf, waf_interval), (uar, uar_interval) = (_summed(drawn) for drawn in scores)
    gains = (_summed(own - other) for own, other in zip(scores, first, strict=True))
    (gain, gain_interval), (uar_gain, uar_gain_interval) = gains
    return Line(
        name=name, waf=waf, waf_interval=waf_interval, uar=uar, uar_interval=uar_interval, gain=gain,
        gain_interval=gain_interval, uar_gain=uar_gain, uar_gain_interval=uar_gain_interval, seeds=seeds,
        facts=facts,
    )  # fmt: skip


def _summed(drawn: NDArray[np.float64]) -> tuple[float, Interval]:
    return float(drawn[0]), percentile(drawn[1:])
