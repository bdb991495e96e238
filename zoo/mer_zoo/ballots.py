"""What is voted on, what a vote decides, and what a selection keeps: the types of a pseudo-label round.

A round is: members' probabilities → *vote* → *selection* → label layer. Both steps are small functions of one
signature, registered by name, so that a new strategy is one function and its line in a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABSTAINS = -1


@dataclass(frozen=True)
class Ballot:
    """Probabilities of M members for n clips over C classes.

    Attributes:
        members: Names of the runs.
        classes: Class names.
        keys: Clip keys.
        probs: float32 `[M, n, C]`; rows of a member that abstains are ignored.
        cast: bool `[M, n]`, False where a member has no features of a clip and abstains.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    probs: NDArray[np.float32]
    cast: NDArray[np.bool_]

    @cached_property
    def votes(self) -> NDArray[np.int16]:
        """int16 `[n, M]`: each member's likeliest class; -1 where it abstains."""
        return np.where(self.cast, self.probs.argmax(2), ABSTAINS).astype(np.int16).T

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """float32 `[n, C]`: mean probabilities of the members that do not abstain; zeros where all do."""
        weight = self.cast[:, :, None] / np.maximum(self.cast.sum(0), 1)[None, :, None]
        # Added in sorted order: the order of the members must not show, not even in the last bit.
        mean: NDArray[np.float32] = np.sort(self.probs * weight, axis=0).sum(0).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Verdict:
    """What a vote says of each clip.

    Attributes:
        label: int16 `[n]`; -1 where nobody voted.
        probs: float32 `[n, C]`; zeros where nobody voted.
        confidence: float32 `[n]`, of the label.
    """

    label: NDArray[np.int16]
    probs: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """What a selection keeps.

    Attributes:
        kept: bool `[n]`.
        reason: Why each clip was kept or dropped.
    """

    kept: NDArray[np.bool_]
    reason: tuple[str, ...]


@dataclass(frozen=True)
class Vote:
    """A way of voting.

    Attributes:
        function: `(ballot, **params)` → `Verdict`.
        summary: One line for people.
        params: Its parameters with their defaults.
    """

    function: Callable[..., Verdict]
    summary: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Select:
    """A way of selecting.

    Attributes:
        function: `(ballot, verdict, **params)` → `Selection`.
        summary: One line for people.
        params: Its parameters with their defaults.
    """

    function: Callable[..., Selection]
    summary: str
    params: Mapping[str, Any]
