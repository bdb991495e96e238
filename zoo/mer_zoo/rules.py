"""How a round is decided: its vote, its selection, its calibration, as options a person gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mer_zoo.errors import ZooError
from mer_zoo.strategies import complete, find_selection, find_vote
from mer_zoo.votes import expert_weights


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What `pseudo_label` is told beside runs and clips: `pseudo_label(store, runs, **rules.to_json())`.

    Attributes:
        vote: Name of the vote.
        vote_params: Its parameters.
        select: Name of the selection.
        select_params: Its parameters.
        calibrate: How members are calibrated.
    """

    vote: str = "soft"
    vote_params: Mapping[str, Any] = field(default_factory=dict)
    select: str = "threshold"
    select_params: Mapping[str, Any] = field(default_factory=dict)
    calibrate: str = "none"

    def to_json(self) -> dict[str, Any]:
        """Return them as plain JSON values."""
        return asdict(self)


def make_rules(
    *,
    vote: str | None = None,
    vote_params: Mapping[str, Any] | None = None,
    experts: Sequence[str] = (),
    expert_classes: Sequence[str] | None = None,
    expert_weight: float = 2.0,
    select: str | None = None,
    select_params: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    class_thresholds: Mapping[str, float | str] | None = None,
    calibrate: str = "none",
) -> Rules:
    """Complete rules from options; experts imply the vote `weighted`, class thresholds `per-class`.

    Args:
        vote: None takes `soft`, or `weighted` with experts.
        vote_params: Of the vote.
        experts: Runs that are heard more.
        expert_classes: For which classes.
        expert_weight: How much more.
        select: None takes `threshold`, or `per-class` with class thresholds.
        select_params: Of the selection.
        threshold: Of a selection that has one.
        class_thresholds: Class -> threshold.
        calibrate: How members are calibrated.

    Raises:
        UnknownName: No such vote, selection or parameter.
        ZooError: Options that contradict each other, or a value of the wrong kind.
    """
    voting, selecting = dict(vote_params or {}), dict(select_params or {})
    if experts or expert_classes:
        vote = _implied("--expert", "vote", vote, "weighted")
        if not experts or not expert_classes:
            raise ZooError("an expert needs classes to be one in", "give --expert RUN --expert-classes a,b")
        voting["weights"] = expert_weights(experts, expert_classes, expert_weight)
    if class_thresholds:
        select = _implied("--class-threshold", "select", select, "per-class")
        selecting["thresholds"] = {
            name: _probability(f"the threshold of {name}", value, f"give a number, e.g. {name}=0.85")
            for name, value in class_thresholds.items()
        }
    if threshold is not None:
        selecting["threshold"] = _probability("the threshold", threshold, "use a probability between 0 and 1")
    voter, selector = find_vote(vote or "soft"), find_selection(select or "threshold")
    return Rules(
        vote=voter.name,
        vote_params=complete(voter, voting),
        select=selector.name,
        select_params=complete(selector, selecting),
        calibrate=calibrate,
    )


def _implied(option: str, what: str, given: str | None, implied: str) -> str:
    if given not in (None, implied):
        raise ZooError(f"{option} means --{what} {implied}, and --{what} {given} is given", "leave one out")
    return implied


def _probability(what: str, value: float | str, remedy: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise ZooError(f"{what} is {value!r}", remedy)
    return found
