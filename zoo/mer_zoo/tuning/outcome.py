"""What a tuning is at work with, and what is told of it when all its parts are trained."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mer_plugins.host import extractor_cards
from mer_plugins.tunable import Tunable
from mer_zoo.metrics import Scores, score
from mer_zoo.runs import versions
from mer_zoo.trainset import TrainSet
from mer_zoo.tuning.media import Media
from mer_zoo.tuning.parts import Part, Parts
from mer_zoo.tuning.publish import publish
from mer_zoo.tuning.result import PartResult, TuneResult
from mer_zoo.tuning.selection import Selection
from mer_zoo.tuning.settings import TuneSettings
from mer_zoo.tuning.work import Work

if TYPE_CHECKING:
    from mer_featurestore import Store

FACTS, PROBS = "facts.json", "probs.safetensors"
Progress = Callable[[str, int, int], None]
"""Called with (what is done: `loading`, `decoding`, or the name of a part; done, in all)."""


@dataclass(frozen=True)
class Job:
    """A tuning whose clips are decoded and whose base is loaded.

    Attributes:
        selection: What was decided before.
        work: The folder of what is not finished.
        device: Where the base is.
        progress: Told how far it is.
        tunable: The base with its adapter.
        media: The clips as the encoder takes them.
        chosen: Their labels.
        parts: Who learns from what.
        left_out: Key -> why a clip has no part in this.
        counts: Parameters that are trained in the encoder, and all of it.
    """

    selection: Selection
    work: Work
    device: torch.device
    progress: Progress
    tunable: Tunable
    media: Media
    chosen: TrainSet
    parts: Parts
    left_out: Mapping[str, str]
    counts: tuple[int, int]

    @property
    def settings(self) -> TuneSettings:
        """How it is tuned."""
        return self.selection.request.settings


def facts_of(folder: Path) -> Any:
    """Return what a finished part says: `best_epoch`, `epochs`."""
    return json.loads((folder / FACTS).read_text("utf-8"))


def finish(
    store: "Store", job: Job, folders: Mapping[str, Path], command: str, message: str
) -> dict[str, Any]:
    """Score what was trained and publish it; return the fields of a `TuneResult` but `seconds`, `resumed`."""
    selection, chosen = job.selection, job.chosen
    trainable, total = job.counts
    results = tuple(_result(job, part, folders[part.name]) for part in job.parts.parts)
    told: dict[str, Any] = {
        "name": selection.request.name,
        "plugin": selection.request.plugin,
        "layers": selection.layers,
        "probe": selection.probe,
        "trainable": trainable,
        "total": total,
        "parts": results,
        "out_of_fold": _out_of_fold(job, folders, "held"),
        "frozen": _out_of_fold(job, folders, "held_before"),
        "left_out": dict(job.left_out),
        "extract": _next(selection),
        "notices": (*chosen.notices, *job.parts.notices),
    }
    told["notices"] += _in_vain(results, told["out_of_fold"], told["frozen"], job.settings.metric)
    shown = TuneResult(**told, seconds=0.0, resumed=False).to_json()
    facts = {name: shown[name] for name in ("plugin", "layers", "parts", "out_of_fold", "frozen", "left_out")}
    facts |= {
        "trained_parameters": trainable,
        "all_parameters": total,
        "settings": selection.request.settings.to_json(),
        "rows": dict(selection.extractor.made_by()),
        "seed": selection.request.seed,
        "pseudo": int((~chosen.human).sum()),
        "classes": list(chosen.classes),
        "history": {name: facts_of(folder)["epochs"] for name, folder in folders.items()},
        "commit": store.commit,
        "device": str(job.device),
        "versions": versions(),
    }
    layers = f"layers {selection.request.layers}" if selection.layers else "all layers"
    summary = f"tune {layers} of {selection.request.plugin} on {selection.request.labels}"
    publish(
        store,
        selection,
        job.parts,
        folders,
        chosen.keys,
        facts,
        into=job.work.part("bundle"),
        command=command,
        message=message or summary,
    )
    return told


def _in_vain(
    parts: Sequence[PartResult], held: Scores | None, frozen: Scores | None, metric: str
) -> tuple[str, ...]:
    """Say when tuning was not worth it, as far as these clips tell."""
    after, before, what = held, frozen, "held-out clips, by adapters that never saw their labels"
    if after is None or before is None:
        after, before, what = parts[0].valid, parts[0].valid_before, "validation clips"
    if after is None or before is None or getattr(after, metric) > getattr(before, metric):
        return ()
    now, then = getattr(after, metric), getattr(before, metric)
    told = (
        f"tuning did not help: {metric.upper()} {now:.3f} on {what}, {then:.3f} by a logistic regression on"
    )
    return (f"{told} the frozen encoder; try a lower --lr, fewer layers, or more clips",)


def _result(job: Job, part: Part, folder: Path) -> PartResult:
    facts, probs = facts_of(folder), load_file(folder / PROBS)

    def scored(name: str, rows: NDArray[np.int64]) -> Scores | None:
        return score(job.chosen.label[rows], probs[name], job.chosen.classes) if len(rows) else None

    return PartResult(
        part.name,
        len(part.train),
        len(facts["epochs"]),
        facts["best_epoch"],
        scored("valid", part.valid),
        scored("held", part.held),
        scored("valid_before", part.valid),
        scored("held_before", part.held),
    )


def _out_of_fold(job: Job, folders: Mapping[str, Path], name: str) -> Scores | None:
    held = [part for part in job.parts.parts if len(part.held)]
    if not held:
        return None
    label = np.concatenate([job.chosen.label[part.held] for part in held])
    probs = np.concatenate([load_file(folders[part.name] / PROBS)[name] for part in held])
    return score(label, probs, job.chosen.classes)


def _next(selection: Selection) -> str:
    """Return the command that extracts with the adapter."""
    request, options = selection.request, selection.request.options
    card = extractor_cards().get(request.name)
    # `hubert-large-lora` is a plugin that takes the adapter of its own name into its own base.
    own = card is not None and (card.adapter, card.model) == (request.name, selection.card.model)
    said = ["mer-fs", "extract", "--plugin", request.name if own else request.plugin]
    if not own:
        said += ["--adapter", request.name, "--as", request.name]
    for flag, value in (
        ("--model", options.model),
        ("--revision", options.revision),
        ("--layers", options.layers),
    ):
        said += [flag, value] if value else []
    for name, value in options.extra.items():
        said += ["--option", f"{name}={value}"]
    return shlex.join(said)
