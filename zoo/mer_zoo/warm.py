"""Warm training: each fold begins with the weights of the same fold of an earlier run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mer_zoo.errors import ZooError
from mer_zoo.runs import Run, RunConfig, find_run

if TYPE_CHECKING:
    from torch import Tensor

    from mer_featurestore import Store
    from mer_zoo.spaces import Inputs

_FREE = "dropout"  # a parameter that is no part of a model's shape


def starting_states(parent: Run, config: RunConfig) -> "tuple[Mapping[str, Tensor], ...]":
    """Return what each fold of a training begins with: the weights and standardisation of its parent's fold.

    The folds must be the parent's, or a fold would begin with weights that have seen the clips it is
    validated on. Standardisation stays the parent's too: means and scales of another training part would
    change what the weights mean.

    Args:
        parent: The run to go on from.
        config: Of the training.

    Raises:
        ZooError: The parent is of another model, features, classes or folds; the message says which and what
            to type.
    """
    differing = _differences(parent.config, config)
    if differing:
        raise ZooError(
            f"training cannot go on from {parent.name}: " + "; ".join(what for what, _ in differing),
            "; ".join(dict.fromkeys(remedy for _, remedy in differing)),
        )
    return parent.states()


def pseudo_labelled(store: "Store", run: Run) -> set[str]:
    """Return the clips whose pseudo-labels trained a run, or a run that it went on from."""
    found, seen = set(run.config.pseudo), {run.name}
    while (parent := run.config.warm) and parent in store.runs and parent not in seen:
        run = find_run(store, parent)
        seen.add(parent)
        found |= set(run.config.pseudo)
    return found


def _differences(old: RunConfig, new: RunConfig) -> list[tuple[str, str]]:
    """Return what must be the same and is not, each with what to do about it."""
    found = []
    if old.model != new.model:
        found.append((f"it is of the model {old.model}, not {new.model}", "go on with the same model"))
    else:
        found += _other_params(old.params, new.params)
    if _read(old.inputs) != _read(new.inputs):
        told = ",".join(str(chosen) for chosen in old.inputs.chosen.values())
        most = f" --max-frames {old.inputs.max_frames}" if old.inputs.max_frames else ""
        found.append(("it reads other features", f"read what it has read: --features {told}{most}"))
    if old.classes != new.classes:
        classes = f"{', '.join(old.classes)} against {', '.join(new.classes)}"
        found.append((f"its classes are others ({classes})", "train from scratch: without --warm"))
    if old.standardise != new.standardise:
        option = "--standardise" if old.standardise else "--no-standardise"
        found.append(("only one of the two standardises features", f"use {option}"))
    if dict(old.folds) != dict(new.folds):
        asked = f"--folds {old.folds_asked} --seed {old.seed} --group-by {old.group_by} --split {old.split}"
        remedy = f"use {asked} and a layer over the same human labels, or train from scratch: without --warm"
        found.append(("its folds are others, and validation clips would have been seen", remedy))
    return found


def _other_params(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{name} was {old.get(name)!r} and is {new.get(name)!r}", f"use --param {name}={old.get(name)}")
        for name in dict.fromkeys([*old, *new])
        if name != _FREE and old.get(name) != new.get(name)
    ]


def _read(inputs: "Inputs") -> tuple[dict[str, tuple[str, int | None]], int | None]:
    """Return what decides the numbers that reach a model."""
    return {name: (c.fingerprint, c.layer) for name, c in inputs.chosen.items()}, inputs.max_frames
