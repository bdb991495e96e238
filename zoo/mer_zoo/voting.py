"""Taking a vote, on the clips in question and on held-out ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mer_zoo.ballots import Ballot, HeldOut, Verdict, Vote


def decide(ballot: Ballot, vote: Vote, params: Mapping[str, Any]) -> Verdict:
    """Take a vote; the verdict on held-out clips is found without their own labels.

    Each half of the held-out clips is voted on as if it were unlabelled, with only the other half known.
    """
    verdict: Verdict = vote.function(ballot, **params)
    held = ballot.held_out
    if held is None or held.half.all() or not held.half.any():
        return verdict
    return replace(verdict, held_out=_held_out(held, vote, params))


def _held_out(held: HeldOut, vote: Vote, params: Mapping[str, Any]) -> Verdict:
    n, C = len(held.label), len(held.ballot.classes)
    label, probs, confidence = np.zeros(n, np.int16), np.zeros((n, C), np.float32), np.zeros(n, np.float32)
    for part in (held.half, ~held.half):
        found: Verdict = vote.function(held.ballot.take(part, held.take(~part)), **params)
        label[part], probs[part], confidence[part] = found.label, found.probs, found.confidence
    return Verdict(label, probs, confidence)
