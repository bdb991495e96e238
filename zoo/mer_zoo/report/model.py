"""What a report shows, as plain values: figures and page are made from these and from nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_zoo.metrics import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run on the clips it is judged by.

    Attributes:
        name: Of the run.
        model: Of the zoo.
        modalities: It reads.
        layer: Of labels it was trained on.
        human: Training clips with a label by a person.
        pseudo: Training clips with a pseudo-label.
        scores: On the report's split.
        interval: 95 % bootstrap interval of WAF over clips.
        label: int64 `[n]`.
        probs: float64 `[n, C]`.
        curves: Per fold, the validation WAF after every epoch.
        command: That made it.
    """

    name: str
    model: str
    modalities: tuple[str, ...]
    layer: str
    human: int
    pseudo: int
    scores: Scores
    interval: tuple[float, float]
    label: NDArray[np.int64]
    probs: NDArray[np.float64]
    curves: tuple[NDArray[np.float64], ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """One label layer laid over what it stands on.

    Attributes:
        name: Of the layer.
        human: Clips per class labelled by people.
        pseudo: Clips per class with a kept pseudo-label.
        dropped: Clips that were judged and not kept.
        precision: Share of the pseudo-labels that the report's labels agree with; None where not known.
        checked: How many pseudo-labels that share is of.
    """

    name: str
    human: dict[str, int]
    pseudo: dict[str, int]
    dropped: int
    precision: float | None = None
    checked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A clip a run got wrong, and how sure it was; `also` are the other runs that said the same."""

    key: str
    label: str
    said: str
    confidence: float
    text: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page; `mistakes` are those of the run with the highest WAF, `best`."""

    title: str
    note: str
    store: str
    commit: int
    split: str
    labels: str
    classes: tuple[str, ...]
    runs: tuple[RunView, ...]
    layers: tuple[LayerView, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def best(self) -> RunView:
        """The run with the highest WAF."""
        return max(self.runs, key=lambda run: run.scores.waf)
