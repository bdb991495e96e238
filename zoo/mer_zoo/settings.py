"""The settings of training, light enough for `--help`."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError

PRECISIONS = ("float32", "bfloat16")
_MOST_SEED = 2**32 - 1  # the legacy generator that folds are drawn with takes no more


def check_seed(seed: int) -> None:
    """Raise ZooError for a seed that not every generator takes."""
    if not 0 <= seed <= _MOST_SEED:
        raise ZooError(f"{seed} cannot be a seed", f"use a whole number from 0 to {_MOST_SEED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a member is trained.

    Attributes:
        epochs: At most.
        batch_size: Clips a step.
        lr: Learning rate of Adam.
        weight_decay: Of Adam (added to the gradient, as in the field's baseline).
        patience: Epochs without a higher validation WAF before it stops.
        class_weights: Whether classes count inversely to their frequency in the training part.
        label_smoothing: Share of each target spread over all classes.
        precision: Of matrix products while training. Weights, Adam, validation and predictions are float32
            in any case.

    Raises:
        ZooError: A value out of range.
        UnknownName: There is no such precision.
    """

    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-5
    patience: int = 20
    class_weights: bool = False
    label_smoothing: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ZooError(f"{name} is {getattr(self, name)}", "use 1 or more")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise ZooError(
                f"learning rate {self.lr:g} and weight decay {self.weight_decay:g} cannot be used",
                "use a learning rate above 0 and a weight decay of 0 or more",
            )
        if not 0 <= self.label_smoothing < 1:
            raise ZooError(f"label smoothing is {self.label_smoothing:g}", "use 0 or more, below 1")
        if self.precision not in PRECISIONS:
            raise UnknownName("precision", self.precision, PRECISIONS)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Settings":
        """Undo `to_json`."""
        return cls(**document)
