"""Ways of voting: members' probabilities in, one label per clip out."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mer_zoo.ballots import ABSTAINS, Ballot, Verdict, Vote


def soft(ballot: Ballot) -> Verdict:
    """Mean of the members' probabilities; the label is the likeliest class, the first of equals."""
    return _verdict(ballot, ballot.mean.argmax(1))


def majority(ballot: Ballot) -> Verdict:
    """The class most members vote for; among equals the one with the higher mean probability, then the first.

    The confidence is the mean probability of that class over all members that vote, so that a narrow majority
    is less sure than a unanimous one.
    """
    classes = np.arange(len(ballot.classes))
    counts = (ballot.votes[:, :, None] == classes).sum(1)
    # Mean probabilities are at most 1, so halved they decide between equal counts and nothing else.
    return _verdict(ballot, (counts + ballot.mean / 2).argmax(1))


def _verdict(ballot: Ballot, label: NDArray[np.intp]) -> Verdict:
    voted = ballot.cast.any(0)
    confidence = ballot.mean[np.arange(len(label)), label]
    return Verdict(
        np.where(voted, label, ABSTAINS).astype(np.int16),
        ballot.mean,
        np.where(voted, confidence, 0).astype(np.float32),
    )


VOTES: Mapping[str, Vote] = {
    "soft": Vote(soft, "mean of the members' probabilities", {}),
    "majority": Vote(majority, "most votes; equals by mean probability", {}),
}
