"""Training a model over K folds from a feature store, ending in a run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mer_featurestore.errors import NameTaken
from mer_featurestore.names import check_name
from mer_featurestore.records import Level
from mer_zoo.contract import ModelCard
from mer_zoo.data import Features, load_features
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.fit import fit
from mer_zoo.folds import make_folds
from mer_zoo.metrics import Scores, mean_std, score
from mer_zoo.prepared import mean_probs
from mer_zoo.registry import build_model, complete_params, find_model
from mer_zoo.runs import MEAN_OF_FOLDS, OUT_OF_FOLD, Predictions, RunConfig, rebuild, run_facts, run_files
from mer_zoo.settings import Settings
from mer_zoo.spaces import Inputs, choose
from mer_zoo.training import Fitted, Member, ProgressCallback, Targets, Task
from mer_zoo.trainset import TrainSet, default_layer, train_set

if TYPE_CHECKING:
    from mer_featurestore import Store


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run, as it is told to a person.

    Attributes:
        name: The run's name in the store.
        scores: Over the out-of-fold predictions of the human-labelled training clips.
        mean: Mean and standard deviation over folds, per scalar score.
        human: Human-labelled clips that trained.
        pseudo: Pseudo-labelled clips that trained.
        folds: How many.
        best_epochs: Per fold.
        seconds: Wall time.
        notices: What a person should know.
    """

    name: str
    scores: Scores
    mean: dict[str, dict[str, float]]
    human: int
    pseudo: int
    folds: int
    best_epochs: tuple[int, ...]
    seconds: float
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "run": self.name,
            "scores": self.scores.to_json(),
            "mean": self.mean,
            "human": self.human,
            "pseudo": self.pseudo,
            "folds": self.folds,
            "best_epochs": list(self.best_epochs),
            "seconds": round(self.seconds, 2),
            "notices": list(self.notices),
        }


def train(
    store: "Store",
    card: ModelCard | str,
    *,
    features: Mapping[str, str] | Sequence[str] | None = None,
    labels: str | None = None,
    folds: int = 5,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    split: str = "train",
    group_by: str = "auto",
    level: Level | None = None,
    max_frames: int | None = None,
    standardise: bool = True,
    soft_labels: bool = False,
    confidence_weights: bool = False,
    device: str = "auto",
    name: str | None = None,
    progress: ProgressCallback | None = None,
    command: str = "",
    message: str = "",
) -> RunResult:
    """Train a model over K folds and keep it as a run.

    Human-labelled clips of `split` are divided into folds; pseudo-labelled clips join the training part of
    every fold and are never validated on. Test clips never train. Each fold stops by its own validation WAF,
    so the out-of-fold scores are slightly optimistic; `evaluate` on another split is the honest number.

    Args:
        store: The store; it moves to the commit that adds the run.
        card: The model, or its name.
        features: Spaces, by modality or as a list; None takes the only space of each modality.
        labels: Label layer; None takes `gold`, or the only one.
        folds: How many (see `make_folds`).
        seed: Decides folds, weights, order and dropout.
        params: Model parameters that differ from its defaults.
        settings: Of training.
        split: Whose human labels may be seen.
        group_by: What folds keep together (see `make_folds`).
        level: Which level of spaces to take by default.
        max_frames: Frames a clip at most (see `thin`).
        standardise: Whether features are standardised by each fold's training part.
        soft_labels: Whether pseudo-labels train as probabilities instead of classes.
        confidence_weights: Whether a pseudo-labelled clip counts by its confidence.
        device: torch device, or `auto`.
        name: Of the run; None takes `<model>-N`.
        progress: Called after each epoch of each fold.
        command: For the journal.
        message: For the journal; by default what was trained on what, and the score.

    Raises:
        UnknownName: No such model, parameter, space, layer or split.
        ZooError: Nothing to train on, or settings that cannot be used.
        Diverged: A loss became infinite or NaN.
        NameTaken: There is a run of that name.
    """
    began = time.monotonic()
    card = find_model(card) if isinstance(card, str) else card
    _check_name(store, name)
    inputs = choose(store, card, features, level=level, max_frames=max_frames)
    chosen = train_set(store, labels or default_layer(store), split)
    params = _params(card, inputs, chosen, params or {})
    where = find_device(device)
    chosen, data = _with_features(chosen, load_features(store, inputs, chosen.keys, pooled=not card.frames))
    parts = make_folds(
        chosen.human_clips, chosen.human_label, chosen.classes, folds=folds, seed=seed, group_by=group_by
    )
    config = RunConfig(
        model=card.name,
        params=params,
        inputs=inputs,
        labels=chosen.layer,
        classes=chosen.classes,
        split=split,
        seed=seed,
        settings=settings or Settings(),
        folds={clip.key: int(k) for clip, k in zip(chosen.human_clips, parts.fold, strict=True)},
        folds_asked=folds,
        group_by=group_by,
        grouped_by=parts.grouped_by,
        pseudo=tuple(key for key, human in zip(chosen.keys, chosen.human, strict=True) if not human),
        standardise=standardise,
        soft_labels=soft_labels,
        confidence_weights=confidence_weights,
        commit=store.commit,
        device=str(where),
    )
    C = len(chosen.classes)
    targets = _targets(chosen, soft_labels=soft_labels, confidence_weights=confidence_weights)
    task = Task(data, targets, lambda p: build_model(card, data.widths, C, p), standardise)
    fitted = fit(task, members(config, chosen), device=where, progress=progress)
    predictions = _predictions(config, chosen, data, fitted)
    metrics = _metrics(config, chosen, predictions)
    run = _add(store, name, config, metrics, fitted, predictions, command, message)
    return RunResult(
        name=run,
        scores=Scores.from_json(metrics["oof"]),
        mean=metrics["mean"],
        human=int(chosen.human.sum()),
        pseudo=int((~chosen.human).sum()),
        folds=parts.count,
        best_epochs=tuple(f.best_epoch for f in fitted),
        seconds=time.monotonic() - began,
        notices=(*chosen.notices, *parts.notices),
    )


def members(config: RunConfig, chosen: TrainSet) -> list[Member]:
    """Return one member per fold: it learns from the other folds and all pseudo-labelled clips."""
    fold = np.array([config.folds.get(key, -1) for key in chosen.keys])
    seeds = np.random.SeedSequence(config.seed).generate_state(config.fold_count, np.uint32)
    return [
        Member(
            name=f"fold-{k}",
            train=torch.from_numpy(np.flatnonzero(fold != k)),
            valid=torch.from_numpy(np.flatnonzero(fold == k)),
            seed=int(seeds[k]),
            params=config.params,
            settings=config.settings,
        )
        for k in range(config.fold_count)
    ]


def _check_name(store: "Store", name: str | None) -> None:
    """Refuse a taken or unsafe name before an hour of training, not after."""
    if name is None:
        return
    check_name(name, "run")
    if name in store.runs:
        raise NameTaken(f"there is a run {name!r} already, and it never changes", "name it otherwise")


def _params(card: ModelCard, inputs: Inputs, chosen: TrainSet, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the parameters, and let the model refuse what it cannot take before features are read."""
    if "level" in card.params:
        given = {"level": inputs.level, **given}
    params = complete_params(card, given)
    build_model(card, {m: c.width for m, c in inputs.chosen.items()}, len(chosen.classes), params)
    return params


def _with_features(chosen: TrainSet, data: Features) -> tuple[TrainSet, Features]:
    """Leave out clips that none of the spaces has."""
    present = data.present.numpy()
    if not (present & chosen.human).any():
        raise ZooError(
            f"none of the {int(chosen.human.sum())} labelled clips has features in these spaces",
            "extract them: mer-fs extract --plugin …",
        )
    if present.all():
        return chosen, data
    left_out = int((~present).sum())
    notice = f"{left_out} labelled clip{'s' * (left_out > 1)} without any of these features left out"
    return chosen.take(present, notice), data.take(torch.from_numpy(np.flatnonzero(present)))


def _targets(chosen: TrainSet, *, soft_labels: bool, confidence_weights: bool) -> Targets:
    probs = np.eye(len(chosen.classes), dtype=np.float32)[chosen.label]
    weight = np.ones(len(probs), np.float32)
    pseudo = ~chosen.human
    if soft_labels:
        probs[pseudo] = chosen.probs[pseudo]
    if confidence_weights:
        weight[pseudo] = chosen.confidence[pseudo]
    return Targets(torch.from_numpy(probs), torch.from_numpy(weight))


def _predictions(
    config: RunConfig, chosen: TrainSet, data: Features, fitted: Sequence[Fitted]
) -> Predictions:
    """Return out-of-fold probabilities of human-labelled clips, the folds' mean of pseudo-labelled ones."""
    probs = np.zeros((len(chosen.clips), len(chosen.classes)), np.float32)
    for member, fit_ in zip(members(config, chosen), fitted, strict=True):
        probs[member.valid.numpy()] = fit_.logits.softmax(-1).numpy()
    pseudo = np.flatnonzero(~chosen.human)
    if len(pseudo):
        modules = [rebuild(config, f.state) for f in fitted]
        probs[pseudo] = mean_probs(modules, data, torch.from_numpy(pseudo))
    origin = np.where(chosen.human, OUT_OF_FOLD, MEAN_OF_FOLDS).astype(np.uint8)
    return Predictions("", chosen.keys, chosen.classes, probs, origin)


def _metrics(config: RunConfig, chosen: TrainSet, predictions: Predictions) -> dict[str, Any]:
    fold = np.array([config.folds.get(key, -1) for key in chosen.keys])

    def scored(where: NDArray[np.bool_]) -> Scores:
        return score(chosen.label[where], predictions.probs[where], chosen.classes)

    per_fold = [scored(fold == k) for k in range(config.fold_count)]
    return {
        "oof": scored(chosen.human).to_json(),
        "mean": mean_std(per_fold),
        "folds": [s.to_json() for s in per_fold],
    }


def _add(
    store: "Store",
    name: str | None,
    config: RunConfig,
    metrics: Mapping[str, Any],
    fitted: Sequence[Fitted],
    predictions: Predictions,
    command: str,
    message: str,
) -> str:
    history = [
        {"name": f"fold-{k}", "best_epoch": f.best_epoch, "epochs": f.history} for k, f in enumerate(fitted)
    ]
    files = run_files(config, metrics, history, [f.state for f in fitted], predictions)
    facts = run_facts(config, metrics)
    parents = (f"labels/{config.labels}", *config.inputs.parents)
    add = partial(store.runs.add, name) if name else partial(store.runs.add_numbered, config.model)
    told = f"train {config.model} on {config.labels}: out-of-fold WAF {facts['waf']:.4f}"
    return add(files, parents=parents, attrs=facts, command=command, message=message or told).name
