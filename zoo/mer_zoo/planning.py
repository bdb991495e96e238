"""What is decided before training: clips, folds, features, parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mer_featurestore.records import Level
from mer_zoo.contract import ModelCard
from mer_zoo.data import Features, load_features
from mer_zoo.devices import find_device, has_bfloat16
from mer_zoo.errors import ZooError
from mer_zoo.folds import check_classes, make_folds
from mer_zoo.guards import leaks, refuse
from mer_zoo.registry import build_model, complete_params, find_model
from mer_zoo.runs import RunConfig, find_run, versions
from mer_zoo.settings import Settings
from mer_zoo.spaces import Inputs, choose, guard
from mer_zoo.training import Member, Targets, Task
from mer_zoo.trainset import TrainSet, default_layer, train_set
from mer_zoo.warm import starting_states

if TYPE_CHECKING:
    from mer_featurestore import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """A training that is decided, with its data in memory.

    Attributes:
        config: Everything that decides the run.
        card: Of the model.
        chosen: The clips and their labels.
        data: Features of the same clips.
        device: Where to train.
        notices: What a person should know.
        starts: State dict that each fold begins with; none when they begin from scratch.
    """

    config: RunConfig
    card: ModelCard
    chosen: TrainSet
    data: Features
    device: torch.device
    notices: tuple[str, ...] = ()
    starts: tuple[Mapping[str, torch.Tensor], ...] = ()

    def task(self) -> Task:
        """Return what members are trained on."""
        config, classes = self.config, len(self.chosen.classes)
        targets = targets_of(
            self.chosen, soft_labels=config.soft_labels, confidence_weights=config.confidence_weights
        )
        return Task(
            self.data,
            targets,
            lambda params: build_model(self.card, self.data.widths, classes, params),
            config.standardise,
        )

    def members(
        self, params: Mapping[str, Any] | None = None, settings: Settings | None = None
    ) -> list[Member]:
        """Return one member per fold: it learns from the other folds and all pseudo-labelled clips.

        Args:
            params: Of the model; None takes the plan's.
            settings: Of training; None takes the plan's.
        """
        fold = np.array([self.config.folds.get(key, -1) for key in self.chosen.keys])
        seeds = np.random.SeedSequence(self.config.seed).generate_state(self.config.fold_count, np.uint32)
        return [
            Member(
                name=f"fold-{k}",
                train=torch.from_numpy(np.flatnonzero(fold != k)),
                valid=torch.from_numpy(np.flatnonzero(fold == k)),
                seed=int(seeds[k]),
                params=self.config.params if params is None else params,
                settings=settings or self.config.settings,
                start=self.starts[k] if self.starts else None,
            )
            for k in range(self.config.fold_count)
        ]

    def changed(self, params: Mapping[str, Any], settings: Settings) -> "Plan":
        """Return the same plan with other parameters and settings."""
        return replace(self, config=replace(self.config, params=dict(params), settings=settings))


def make_plan(
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
) -> Plan:
    """Decide a training, and read its features; arguments and errors are those of `mer_zoo.train.train`.

    Folds are made of all human-labelled clips, whether they have features or not, so that runs on different
    features have the same folds and can be compared clip by clip.
    """
    card = find_model(card) if isinstance(card, str) else card
    parent = find_run(store, warm) if warm else None
    inputs = choose(store, card, features, level=level, max_frames=max_frames)
    chosen = train_set(store, labels or default_layer(store), split)
    complete = _params(card, inputs, chosen, params or {})
    where = find_device(device)
    labelled = chosen
    chosen, data = _with_features(chosen, load_features(store, inputs, chosen.keys, pooled=not card.frames))
    check_classes(labelled.human_label, labelled.classes)
    parts = make_folds(
        labelled.human_clips,
        labelled.human_label,
        labelled.classes,
        folds=folds,
        seed=seed,
        group_by=group_by,
    )
    fold_of = {clip.key: int(k) for clip, k in zip(labelled.human_clips, parts.fold, strict=True)}
    config = RunConfig(
        model=card.name,
        params=complete,
        inputs=inputs,
        labels=chosen.layer,
        classes=chosen.classes,
        split=split,
        seed=seed,
        settings=settings or Settings(),
        folds=_kept_folds(chosen, fold_of),
        folds_asked=folds,
        group_by=group_by,
        grouped_by=parts.grouped_by,
        pseudo=tuple(key for key, human in zip(chosen.keys, chosen.human, strict=True) if not human),
        standardise=standardise,
        soft_labels=soft_labels,
        confidence_weights=confidence_weights,
        commit=store.commit,
        device=str(where),
        warm=warm,
    )
    starts = starting_states(parent, config) if parent else ()
    found = leaks(store, inputs, config.folds, config.pseudo)
    if strict:
        refuse(found)
    notices = (*chosen.notices, *parts.notices, *found, *_slow(config.settings, where))
    return Plan(config, card, chosen, data, where, notices, starts)


def remake_plan(store: "Store", config: RunConfig, run: str, *, device: str = "auto") -> Plan:
    """Make the plan of a run again.

    Args:
        store: The store at the commit the run has read.
        config: Of the run.
        run: Its name, for messages.
        device: torch device, or `auto`.

    Raises:
        UnknownName: The model, a space or the layer is not there.
        FingerprintMismatch: The features were made otherwise than those the run was trained on.
        ZooError: The clips or classes are not those the run was trained on.
    """
    card, where = find_model(config.model), find_device(device)
    guard(store, config.inputs, run)
    chosen = train_set(store, config.labels, config.split)
    chosen, data = _with_features(
        chosen, load_features(store, config.inputs, chosen.keys, pooled=not card.frames)
    )
    if set(chosen.keys) != {*config.folds, *config.pseudo} or chosen.classes != config.classes:
        raise ZooError(
            f"{run} was trained on {len(config.folds)} + {len(config.pseudo)} clips, and commit "
            f"{store.commit} gives others",
            "the store is not the one the run was made in; train anew: mer-zoo train",
        )
    again = replace(config, device=str(where), versions=versions())
    starts = starting_states(find_run(store, config.warm), config) if config.warm else ()
    return Plan(again, card, chosen, data, where, chosen.notices, starts)


def _slow(settings: Settings, device: torch.device) -> tuple[str, ...]:
    if settings.precision == "float32" or has_bfloat16(device):
        return ()
    return (f"{device} has no {settings.precision} instructions: training is slower than in float32",)


def _kept_folds(chosen: TrainSet, fold_of: Mapping[str, int]) -> dict[str, int]:
    """Return key -> fold of the human-labelled clips that are left, folds numbered without a gap."""
    keys = [clip.key for clip in chosen.human_clips]
    fold = np.unique([fold_of[key] for key in keys], return_inverse=True)[1]
    if fold.max() == 0:
        raise ZooError(
            f"only one fold has clips with features ({len(keys)} labelled clips)",
            "extract the features of more clips: mer-fs extract --plugin …",
        )
    return {key: int(k) for key, k in zip(keys, fold, strict=True)}


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


def targets_of(chosen: TrainSet, *, soft_labels: bool, confidence_weights: bool) -> Targets:
    """Return what the clips should be: classes, or with `soft_labels` the pseudo-labels' probabilities."""
    probs = np.eye(len(chosen.classes), dtype=np.float32)[chosen.label]
    weight = np.ones(len(probs), np.float32)
    pseudo = ~chosen.human
    if soft_labels:
        probs[pseudo] = chosen.probs[pseudo]
    if confidence_weights:
        weight[pseudo] = chosen.confidence[pseudo]
    return Targets(torch.from_numpy(probs), torch.from_numpy(weight))
