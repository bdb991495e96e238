"""Human labels that a run doubts, for somebody to look at again; nothing is changed by it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_zoo.label_noise import doubts
from mer_zoo.members import out_of_fold
from mer_zoo.runs import Run, find_run

if TYPE_CHECKING:
    from mer_featurestore import Store


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that confident learning doubts.

    Attributes:
        key: Of the clip.
        label: What people say.
        taken_for: What the run is confident it is.
        own: Probability of the label.
        other: Probability of what it is taken for.
    """

    key: str
    label: str
    taken_for: str
    own: float
    other: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def suspects(store: "Store", run: Run | str) -> list[Suspect]:
    """Return the training labels that a run's out-of-fold predictions doubt, the most doubted first.

    A label is doubted when another class reaches its own bar (the mean probability of the clips people put
    into it) and is the likeliest that does (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068).

    Raises:
        UnknownName: No such run.
        ZooError: The run has no out-of-fold predictions.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    held, classes = out_of_fold(store, run), run.config.classes
    taken_for = doubts(held.probs, held.label)
    doubted = np.flatnonzero((taken_for >= 0) & (taken_for != held.label))
    found = [
        Suspect(
            held.keys[i],
            classes[held.label[i]],
            classes[taken_for[i]],
            float(held.probs[i, held.label[i]]),
            float(held.probs[i, taken_for[i]]),
        )
        for i in doubted
    ]
    return sorted(found, key=lambda s: (s.own - s.other, s.key))
