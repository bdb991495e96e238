"""What is voted on, what a vote decides, and what a selection keeps: the types of a pseudo-label round.

A round is: members' probabilities → *vote* → *selection* → label layer. Both steps are small functions of one
signature, registered by name through the hooks `mer_votes` and `mer_selections`, so that a new strategy is
one function and its card. What a strategy may learn from (out-of-fold predictions of human-labelled clips)
rides on the ballot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        held_out: The same members on labelled clips they had not seen; None where there are none.
        single: float32 `[J, n, C]`, the members' mean by one fold of each, J times. `probs` are means over
            folds and less extreme than the held-out ones, which one fold has said: what is learned on these
            holds for `single`. None where `probs` are such themselves.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    probs: NDArray[np.float32]
    cast: NDArray[np.bool_]
    held_out: "HeldOut | None" = None
    single: NDArray[np.float32] | None = None

    def take(self, where: NDArray[Any], held_out: "HeldOut | None" = None) -> "Ballot":
        """Return the clips where `where` is true (or at these positions), with other held-out clips."""
        at = np.arange(len(self.keys))[where]
        keys = tuple(self.keys[i] for i in at)
        probs, cast = self.probs[:, at], self.cast[:, at]
        single = None if self.single is None else self.single[:, at]
        return Ballot(self.members, self.classes, keys, probs, cast, held_out, single)

    @cached_property
    def votes(self) -> NDArray[np.int16]:
        """int16 `[n, M]`: each member's likeliest class; -1 where it abstains."""
        return np.where(self.cast, self.probs.argmax(2), ABSTAINS).astype(np.int16).T

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """float32 `[n, C]`: mean probabilities of the members that do not abstain; zeros where all do."""
        return mean_of(self.probs, self.cast)


def mean_of(probs: NDArray[np.float32], cast: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the mean `[n, C]` of probabilities `[M, n, C]` over the members that cast a vote `[M, n]`."""
    weight = cast[:, :, None] / np.maximum(cast.sum(0), 1)[None, :, None]
    # Added in sorted order: the order of the members must not show, not even in the last bit.
    mean: NDArray[np.float32] = np.sort(probs * weight, axis=0).sum(0).astype(np.float32)
    return mean


@dataclass(frozen=True)
class Verdict:
    """What a vote says of each clip.

    Attributes:
        label: int16 `[n]`; -1 where nobody voted.
        probs: float32 `[n, C]`; zeros where nobody voted.
        confidence: float32 `[n]`, of the label.
        facts: What the vote found out on the way (estimated priors, error rates), as JSON, kept with the
            layer.
        held_out: The verdict on the ballot's held-out clips, each judged without its own label.
    """

    label: NDArray[np.int16]
    probs: NDArray[np.float32]
    confidence: NDArray[np.float32]
    facts: Mapping[str, Any] = field(default_factory=dict)
    held_out: "Verdict | None" = None


@dataclass(frozen=True)
class HeldOut:
    """What members say of human-labelled clips that they had not learned from.

    Attributes:
        ballot: Out-of-fold probabilities of m clips.
        label: int64 `[m]`, what people say.
        half: bool `[m]`, parts the clips into two halves that share no speaker, for fitting on one and
            judging the other.
    """

    ballot: Ballot
    label: NDArray[np.int64]
    half: NDArray[np.bool_]

    def take(self, where: NDArray[np.bool_]) -> "HeldOut":
        """Return the clips where `where` is true."""
        return HeldOut(self.ballot.take(where), self.label[where], self.half[where])


@dataclass(frozen=True)
class Selection:
    """What a selection keeps.

    Attributes:
        kept: bool `[n]`.
        reason: Why each clip was kept or dropped.
        weight: float32 `[n]`, 0 to 1, what each clip should count in training; it becomes the layer's
            confidence. None leaves that as the vote gave it.
        facts: What the selection found out on the way (thresholds …), as JSON, kept with the layer.
    """

    kept: NDArray[np.bool_]
    reason: tuple[str, ...]
    weight: NDArray[np.float32] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vote:
    """A way of voting.

    Attributes:
        name: As typed after `--vote`.
        function: `(ballot, **params)` → `Verdict`.
        summary: One line for people.
        params: Its parameters with their defaults.
        invents: Whether it may decide for a class that is no member's likeliest.
    """

    name: str
    function: Callable[..., Verdict]
    summary: str
    params: Mapping[str, Any] = field(default_factory=dict)
    invents: bool = False


@dataclass(frozen=True)
class Select:
    """A way of selecting.

    Attributes:
        name: As typed after `--select`.
        function: `(ballot, verdict, **params)` → `Selection`.
        summary: One line for people.
        params: Its parameters with their defaults.
    """

    name: str
    function: Callable[..., Selection]
    summary: str
    params: Mapping[str, Any] = field(default_factory=dict)
