"""What came of a tuning, as it is told to a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mer_zoo.metrics import Scores


@dataclass(frozen=True, slots=True)
class PartResult:
    """One trained adapter.

    Attributes:
        name: `fold-0` …, `all` or `one`.
        trained: Clips it learned from.
        epochs: Epochs it was trained.
        best_epoch: The one that is kept, from 1.
        valid: On the clips that chose the epoch; too good for that. None for `all`.
        held: On the clips whose labels it never saw; None for `all` and `one`.
        valid_before: As `valid`, by the logistic regression on the frozen encoder that the head began as.
        held_before: As `held`, by the same.
    """

    name: str
    trained: int
    epochs: int
    best_epoch: int
    valid: Scores | None
    held: Scores | None
    valid_before: Scores | None
    held_before: Scores | None

    def _scores(self) -> dict[str, Scores | None]:
        names = ("valid", "held", "valid_before", "held_before")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "name": self.name,
            "trained": self.trained,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            **{name: found.to_json() if found else None for name, found in self._scores().items()},
        }


@dataclass(frozen=True, slots=True)
class TuneResult:
    """An adapter in the store.

    Attributes:
        name: Of the adapter.
        plugin: Of its base.
        layers: That were adapted, numbered as in extraction; None for all.
        probe: The probe run they are from; empty when there was none.
        trainable: Trained parameters of the adapter, without the head.
        total: Parameters of the base and the adapter.
        parts: Per adapter.
        out_of_fold: Over all held-out clips, each by the adapter and head that never saw its label; None
            without folds.
        frozen: Over the same clips, by logistic regressions on the frozen encoder that never saw their
            labels.
        left_out: Key -> why a clip has no part in this.
        extract: The command that extracts with it.
        notices: What a person should know.
        seconds: Wall time of this call.
        resumed: Whether it went on with one that was interrupted.
    """

    name: str
    plugin: str
    layers: tuple[int, ...] | None
    probe: str
    trainable: int
    total: int
    parts: tuple[PartResult, ...]
    out_of_fold: Scores | None
    frozen: Scores | None
    left_out: Mapping[str, str]
    extract: str
    notices: tuple[str, ...]
    seconds: float
    resumed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "adapter": self.name,
            "plugin": self.plugin,
            "layers": list(self.layers) if self.layers is not None else "all",
            "probe": self.probe or None,
            "trainable": self.trainable,
            "total": self.total,
            "parts": [part.to_json() for part in self.parts],
            "out_of_fold": self.out_of_fold.to_json() if self.out_of_fold else None,
            "frozen": self.frozen.to_json() if self.frozen else None,
            "left_out": dict(self.left_out),
            "extract": self.extract,
            "notices": list(self.notices),
            "seconds": round(self.seconds, 2),
            "resumed": self.resumed,
        }
