"""Members as they are typed: a model and the spaces it reads, `mlp:prosody-UTT`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mer_zoo.errors import ZooError


@dataclass(frozen=True, slots=True)
class Recruit:
    """A member that is yet to be trained.

    Attributes:
        model: Of the zoo.
        features: Spaces; None takes the only one of each modality.
    """

    model: str
    features: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """A name for it that can be part of a run's: `mlp-prosody-UTT`."""
        return re.sub(r"[^A-Za-z0-9._-]", ".", "-".join([self.model, *(self.features or ())]))

    def __str__(self) -> str:
        return self.model if self.features is None else f"{self.model}:{','.join(self.features)}"


def read_recruit(text: str) -> Recruit:
    """Read `model` or `model:space,space`.

    Raises:
        ZooError: A name is empty.
    """
    model, colon, spaces = text.partition(":")
    features = tuple(space.strip() for space in spaces.split(",")) if colon else None
    if not model or (features is not None and not all(features)):
        raise ZooError(f"{text!r} is no member", "give a model, or a model and its spaces: mlp:prosody-UTT")
    return Recruit(model, features)


def check_distinct(recruits: Sequence[Recruit]) -> None:
    """Raise ZooError when two members are the same."""
    labels = [recruit.label for recruit in recruits]
    for recruit in recruits:
        if labels.count(recruit.label) > 1:
            raise ZooError(f"member {recruit} is named twice", "name each member once")
