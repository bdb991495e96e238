"""Training a model over K folds from a feature store, ending in a run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mer_featurestore.errors import NameTaken, StoreError
from mer_featurestore.names import check_name
from mer_featurestore.records import Level
from mer_zoo.contract import ModelCard
from mer_zoo.fit import fit
from mer_zoo.metrics import Scores, mean_std, score
from mer_zoo.planning import Plan, make_plan
from mer_zoo.prepared import mean_probs
from mer_zoo.runs import (
    MEAN_OF_FOLDS,
    OUT_OF_FOLD,
    Predictions,
    Run,
    RunConfig,
    rebuild,
    run_facts,
    run_files,
)
from mer_zoo.settings import Settings
from mer_zoo.tensorboard import event_files
from mer_zoo.training import Fitted, ProgressCallback
from mer_zoo.trainset import TrainSet

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
    strict: bool = False,
    warm: str | None = None,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    tensorboard: Path | None = None,
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
        strict: Whether to refuse what would otherwise be noticed (see `mer_zoo.guards.leaks`).
        warm: A run of the same model, features and folds, whose weights each fold begins with; None begins
            from scratch.
        name: Of the run; None takes `<model>-N`.
        progress: Called after each epoch of each fold.
        tensorboard: Folder to write TensorBoard event files to, `<run>/fold-<k>`.
        command: For the journal.
        message: For the journal; by default what was trained on what, and the score.

    Raises:
        UnknownName: No such model, parameter, space, layer or split.
        ZooError: Nothing to train on, settings that cannot be used, or a `warm` run that does not fit.
        Leak: With `strict`, validation clips reach training by a back door.
        Diverged: A loss became infinite or NaN.
        NameTaken: There is a run of that name.
    """
    began = time.monotonic()
    check_name_is_free(store, name)
    plan = make_plan(
        store,
        card,
        features=features,
        labels=labels,
        folds=folds,
        seed=seed,
        params=params,
        settings=settings,
        split=split,
        group_by=group_by,
        level=level,
        max_frames=max_frames,
        standardise=standardise,
        soft_labels=soft_labels,
        confidence_weights=confidence_weights,
        device=device,
        strict=strict,
        warm=warm,
    )
    return carry_out(
        store,
        plan,
        name=name,
        progress=progress,
        tensorboard=tensorboard,
        command=command,
        message=message,
        began=began,
    )


def carry_out(
    store: "Store",
    plan: Plan,
    *,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    parents: tuple[str, ...] = (),
    attrs: Mapping[str, Any] | None = None,
    tensorboard: Path | None = None,
    command: str = "",
    message: str = "",
    began: float | None = None,
) -> RunResult:
    """Train what a plan says and keep it as a run.

    Args:
        store: The store; it moves to the commit that adds the run.
        plan: What to train on what, made from this store as it is or as it was.
        name: Of the run; None takes `<model>-N`.
        progress: Called after each epoch of each fold.
        parents: What the run stands on besides its labels and features.
        attrs: Facts of the run besides its own.
        tensorboard: Folder to write TensorBoard event files to.
        command: For the journal.
        message: For the journal; by default what was trained on what, and the score.
        began: `time.monotonic()` when the work began; None for now.

    Raises:
        Diverged: A loss became infinite or NaN.
        NameTaken: There is a run of that name.
    """
    began = time.monotonic() if began is None else began
    check_name_is_free(store, name)
    config, chosen = plan.config, plan.chosen
    with event_files(tensorboard, name or store.runs.free_name(config.model), progress) as told:
        fitted = fit(plan.task(), plan.members(), device=plan.device, progress=told)
    predictions = _predictions(plan, fitted)
    metrics = _metrics(config, chosen, predictions)
    files = run_files(config, metrics, _history(fitted), [f.state for f in fitted], predictions)
    facts = run_facts(config, metrics)
    before = [f"runs/{config.warm}"] if config.warm else []
    above = (f"labels/{config.labels}", *config.inputs.parents, *before, *parents)
    add = partial(store.runs.add, name) if name else partial(store.runs.add_numbered, config.model)
    after = f", on from {config.warm}" if config.warm else ""
    summary = f"train {config.model} on {config.labels}{after}: out-of-fold WAF {facts['waf']:.4f}"
    run = add(
        files, parents=above, attrs={**facts, **(attrs or {})}, command=command, message=message or summary
    )
    return RunResult(
        name=run.name,
        scores=Scores.from_json(metrics["oof"]),
        mean=metrics["mean"],
        human=int(chosen.human.sum()),
        pseudo=int((~chosen.human).sum()),
        folds=config.fold_count,
        best_epochs=tuple(f.best_epoch for f in fitted),
        seconds=time.monotonic() - began,
        notices=plan.notices,
    )


def result_of(run: Run, notices: tuple[str, ...] = ()) -> RunResult:
    """Tell of a run that is in the store already as if it had just been trained."""
    return RunResult(
        name=run.name,
        scores=run.scores,
        mean=run.metrics["mean"],
        human=len(run.config.folds),
        pseudo=len(run.config.pseudo),
        folds=run.config.fold_count,
        best_epochs=tuple(fold["best_epoch"] for fold in run.history),
        seconds=0.0,
        notices=notices,
    )


def check_name_is_free(store: "Store", name: str | None) -> None:
    """Refuse what could not be stored before an hour of training, not after."""
    if store.read_only:
        raise StoreError(
            f"{store.url} is opened at commit {store.commit}, which is past", "open it without at"
        )
    if name is None:
        return
    check_name(name, "run")
    if name in store.runs:
        raise NameTaken(f"there is a run {name!r} already, and it never changes", "name it otherwise")


def _predictions(plan: Plan, fitted: Sequence[Fitted]) -> Predictions:
    """Return out-of-fold probabilities of human-labelled clips, the folds' mean of pseudo-labelled ones."""
    chosen = plan.chosen
    probs = np.zeros((len(chosen.clips), len(chosen.classes)), np.float32)
    for member, fit_ in zip(plan.members(), fitted, strict=True):
        probs[member.valid.numpy()] = fit_.logits.softmax(-1).numpy()
    pseudo = np.flatnonzero(~chosen.human)
    if len(pseudo):
        modules = [rebuild(plan.config, f.state) for f in fitted]
        probs[pseudo] = mean_probs(modules, plan.data, torch.from_numpy(pseudo))
    origin = np.where(chosen.human, OUT_OF_FOLD, MEAN_OF_FOLDS).astype(np.uint8)
    return Predictions("", chosen.keys, chosen.classes, probs, origin)


def _history(fitted: Sequence[Fitted]) -> list[dict[str, Any]]:
    return [
        {"name": f"fold-{k}", "best_epoch": f.best_epoch, "epochs": f.history} for k, f in enumerate(fitted)
    ]


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
