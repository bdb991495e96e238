"""Doing a run again from its configuration: the same clips, labels, folds and features."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_zoo.planning import remake_plan
from mer_zoo.runs import Run, find_run
from mer_zoo.train import RunResult, carry_out

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_zoo.training import ProgressCallback


@dataclass(frozen=True, slots=True)
class Rerun:
    """A run done again.

    Attributes:
        of: The first run.
        result: The new one.
        difference: Largest absolute difference of any probability of the two; 0.0 when they are the same.
        changed: Packages and devices that differ: name -> (then, now).
    """

    of: str
    result: RunResult
    difference: float
    changed: dict[str, tuple[str, str]]

    @property
    def identical(self) -> bool:
        """Whether every probability is the same to the bit."""
        return self.difference == 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            **self.result.to_json(),
            "of": self.of,
            "identical": self.identical,
            "difference": self.difference,
            "changed": {name: list(pair) for name, pair in self.changed.items()},
        }


def rerun(
    store: "Store",
    run: Run | str,
    *,
    name: str | None = None,
    device: str | None = None,
    progress: "ProgressCallback | None" = None,
    command: str = "",
) -> Rerun:
    """Train a run again, from its configuration and the store as it was then.

    On the same machine with the same package versions the predictions are the same to the bit.

    Args:
        store: The store; it moves to the commit that adds the new run.
        run: A run, or its name.
        name: Of the new run; None takes `<model>-N`.
        device: torch device, or `auto`; None takes the first run's.
        progress: Called after each epoch of each fold.
        command: For the journal.

    Raises:
        UnknownName: There is no such run, or what it stands on has been removed.
        FingerprintMismatch: The features there are otherwise than those the run was trained on.
        StoreError: The commit it has read was given up by `mer-fs gc --keep`.
        NameTaken: There is a run of the new name.
    """
    from mer_featurestore import Store

    first = find_run(store, run) if isinstance(run, str) else run
    store.snapshot.check_parents(first.bundle.parents)
    past = Store.open(store.url, at=first.config.commit)
    plan = remake_plan(past, first.config, first.name, device=device or first.config.device)
    result = carry_out(
        store,
        plan,
        name=name,
        progress=progress,
        attrs={"rerun_of": first.name},
        command=command,
        message=f"rerun {first.name}",
    )
    again = find_run(store, result.name).predictions
    return Rerun(
        first.name,
        result,
        float(np.abs(again.probs - first.predictions.probs).max()),
        _changed(first, find_run(store, result.name)),
    )


def _changed(first: Run, again: Run) -> dict[str, tuple[str, str]]:
    then = {**first.config.versions, "device": first.config.device}
    now = {**again.config.versions, "device": again.config.device}
    return {name: (then.get(name, "-"), now[name]) for name in now if then.get(name, "-") != now[name]}
