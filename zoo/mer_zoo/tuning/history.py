"""What a training's checkpoints and log say: which epoch was best, and whether it was over when killed."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mer_zoo.tuning.settings import TuneSettings

STATE = "trainer_state.json"
TIES = 1e-6  # what the loss counts beside the score: enough to choose among equals
Epochs = list[dict[str, float]]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; Trainer writes its state last. What is not whole is deleted."""
    found: list[tuple[int, Path]] = []
    for one in folder.glob("checkpoint-*"):
        try:
            found.append((int(json.loads((one / STATE).read_text("utf-8"))["global_step"]), one))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(one, ignore_errors=True)
    return max(found)[1] if found else None


def is_over(state: Mapping[str, Any], settings: TuneSettings, stop_after: int | None) -> bool:
    """Say whether a training that was killed had ended already, so that it gets no epoch more."""
    epochs = epochs_of(state["log_history"])
    if stop_after is not None:
        return bool(round(state["epoch"]) >= stop_after)
    return bool(round(state["epoch"]) >= settings.epochs or waited(epochs) >= settings.patience)


def epochs_of(log: Sequence[Mapping[str, Any]]) -> Epochs:
    """Return Trainer's log with one record an epoch."""
    found: dict[int, dict[str, float]] = {}
    for line in log:
        if "epoch" not in line:
            continue
        record = found.setdefault(round(line["epoch"]), {})
        record |= {"loss": line["loss"]} if "loss" in line else {}
        names = {"uar": "eval_uar", "waf": "eval_waf", "valid_loss": "eval_loss", "choice": "eval_choice"}
        record |= {name: line[logged] for name, logged in names.items() if logged in line}
    return [{"epoch": float(epoch), **found[epoch]} for epoch in sorted(found)]


def best(epochs: Epochs) -> int:
    """Return the epoch of the highest score, from 1."""
    choices = [epoch.get("choice", -math.inf) for epoch in epochs]
    return choices.index(max(choices)) + 1


def waited(epochs: Epochs) -> int:
    """Return how many epochs have passed since the score last rose by more than a smaller loss makes up."""
    highest, count = -math.inf, 0
    for epoch in epochs:
        risen = epoch.get("choice", -math.inf) > highest + TIES
        highest, count = (epoch["choice"], 0) if risen else (highest, count + 1)
    return count
