"""A third party's ways of voting and selecting."""

import numpy as np

from mer_plugins.hookspecs import hookimpl
from mer_zoo.ballots import Ballot, Select, Selection, Verdict, Vote
from mer_zoo.votes import soft


def first(ballot: Ballot) -> Verdict:
    """Listen to the first member only."""
    return soft(Ballot(ballot.members[:1], ballot.classes, ballot.keys, ballot.probs[:1], ballot.cast[:1]))


def everything(ballot: Ballot, verdict: Verdict, *, but: str = "") -> Selection:
    """Keep all clips but one."""
    kept = (verdict.label >= 0) & np.array([key != but for key in ballot.keys])
    return Selection(kept, tuple("kept" if k else "left out" for k in kept))


@hookimpl
def mer_votes() -> list[Vote]:
    """Offer a vote."""
    return [Vote("first", first, "the first member decides")]


@hookimpl
def mer_selections() -> list[Select]:
    """Offer a selection."""
    return [Select("everything", everything, "all but one", {"but": ""})]
