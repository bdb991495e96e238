"""Ways of voting: members' probabilities in, one label per clip out.

A member without features of a clip abstains and counts nothing; where all abstain the label is -1 and
nothing is kept. Sums over members are taken in sorted order, so that their order does not show, not even in
the last bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.ballots import ABSTAINS, Ballot, Verdict, Vote
from mer_zoo.dawid_skene import dawid_skene
from mer_zoo.errors import ZooError
from mer_zoo.label_shift import adjust
from mer_zoo.shares import estimate, given, named, singles

_EQUAL = 1e-9


def soft(ballot: Ballot) -> Verdict:
    """Mean of the members' probabilities; the label is the likeliest class, the first of equals."""
    return _verdict(ballot, ballot.mean.argmax(1), ballot.mean)


def majority(ballot: Ballot) -> Verdict:
    """The class most members vote for; among equals the one with the higher mean probability, then the first.

    The confidence is the mean probability of that class over all members that vote, so that a narrow majority
    is less sure than a unanimous one.
    """
    return weighted(ballot)


def weighted(ballot: Ballot, *, weights: Mapping[str, Mapping[str, float]] | None = None) -> Verdict:
    """Votes counted by a matrix W[member, class] (the prior-knowledge vote of Shi and Gao 2024).

    A vote of member m for class c counts W[m, c]; the class with the highest sum wins, among equals the one
    with the higher mean probability (weighted by the same matrix), then the first. Weights of one are the
    majority. Where every vote cast has the weight 0, nobody has voted.

    Args:
        ballot: What is voted on.
        weights: Member -> class -> weight, 0 or more; what is not named is 1.

    Raises:
        UnknownName: A member or class that is not on the ballot.
        ZooError: A negative weight.
    """
    W = weight_matrix(ballot.members, ballot.classes, weights or {})
    hot = (ballot.votes.T[:, :, None] == np.arange(len(ballot.classes))) * W[:, None, :]
    score = np.sort(hot, axis=0).sum(0)
    say = W[:, None, :] * ballot.cast[:, :, None]
    total = np.sort(say, axis=0).sum(0)
    mean = np.sort(say * ballot.probs, axis=0).sum(0) / np.where(total > 0, total, 1)
    norm = mean.sum(1, keepdims=True)
    mean = mean / np.where(norm > 0, norm, 1)
    best = score >= score.max(1, keepdims=True) - _EQUAL
    heard = score.max(1) > 0
    return _verdict(ballot, np.where(best, mean, -1.0).argmax(1), mean.astype(np.float32), heard)


def prior(ballot: Ballot, *, prior: Mapping[str, float] | None = None, calibrate: str = "bcts") -> Verdict:
    """Mean probabilities, calibrated and corrected for the class shares of the clips that are voted on.

    The mean is calibrated on held-out clips, which one fold has judged, and so is what single folds say of
    the clips in question. From that the shares are estimated by EM (see `mer_zoo.label_shift`), and every
    probability is multiplied by estimated / training share; the verdict is the mean over folds.

    Args:
        ballot: What is voted on; it needs held-out clips.
        prior: Class -> share, when it is known; None estimates it.
        calibrate: How the mean is calibrated (see `mer_zoo.calibration`).

    Raises:
        ZooError: No held-out clips, or shares that are not positive.
        UnknownName: A class that is not on the ballot.
    """
    shares = estimate(ballot, calibrate)
    if shares is None:
        raise ZooError(
            "the prior-corrected vote needs out-of-fold predictions of human-labelled clips; there are none",
            "use --vote soft, or members trained on human labels",
        )
    share = given(ballot.classes, prior) if prior else shares.em
    corrected = adjust(shares.calibrator(singles(ballot)), shares.train, share).mean(0)
    voted = np.asarray(ballot.cast.any(0))
    corrected = np.where(voted[:, None], corrected, 0.0).astype(np.float32)
    facts = {**shares.to_json(), "prior": named(ballot.classes, share), "estimated": not prior}
    return _verdict(ballot, corrected.argmax(1), corrected, facts=facts)


def weight_matrix(
    members: Sequence[str], classes: Sequence[str], weights: Mapping[str, Mapping[str, float]]
) -> NDArray[np.float64]:
    """Return W `[M, C]`: ones, and what is named; members by the run's name, with or without `runs/`."""
    place = {member.removeprefix("runs/"): m for m, member in enumerate(members)}
    W = np.ones((len(members), len(classes)))
    for member, by_class in weights.items():
        name = member.removeprefix("runs/")
        if name not in place:
            raise UnknownName("member", name, place)
        for c, weight in by_class.items():
            if c not in classes:
                raise UnknownName("class", c, classes)
            if not weight >= 0:
                raise ZooError(f"the weight of {name} for {c} is {weight}", "use 0 or more")
            W[place[name], classes.index(c)] = weight
    return W


def expert_weights(
    experts: Iterable[str], classes: Iterable[str], weight: float
) -> dict[str, dict[str, float]]:
    """Return the weights of members that are heard more for some classes (`--expert`, `--expert-classes`)."""
    by_class = dict.fromkeys(classes, float(weight))
    return {expert: dict(by_class) for expert in experts}


def skilled(
    ballot: Ballot, *, iterations: int = 100, smoothing: float = 1.0, anchored: bool = True
) -> Verdict:
    """Votes weighed by every member's estimated confusion of classes (Dawid and Skene 1979).

    Args:
        ballot: What is voted on.
        iterations: Of EM, at most.
        smoothing: Votes added to each member's confusion counts, shared by the classes (twice as many for the
            right one): members are better than chance until they prove otherwise (*reconstructed*).
        anchored: Whether held-out votes with their known labels count in the confusions as well.

    Raises:
        ZooError: A smoothing that is not above 0, or fewer iterations than one.
    """
    if not smoothing > 0 or iterations < 1:
        raise ZooError(
            f"smoothing {smoothing:g} and {iterations} iterations cannot be used",
            "use a smoothing above 0 and 1 iteration or more",
        )
    held = ballot.held_out if anchored else None
    probs, errors, shares = dawid_skene(
        ballot.votes,
        len(ballot.classes),
        known=None if held is None else (held.ballot.votes, held.label),
        iterations=iterations,
        smoothing=smoothing,
    )
    facts = {
        "prior": named(ballot.classes, shares),
        "confusion": {m: e.round(4).tolist() for m, e in zip(ballot.members, errors, strict=True)},
    }
    return _verdict(ballot, probs.argmax(1), probs, facts=facts)


def _verdict(
    ballot: Ballot,
    label: NDArray[np.intp],
    probs: NDArray[np.float32],
    heard: NDArray[np.bool_] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Verdict:
    voted = np.asarray(ballot.cast.any(0) if heard is None else heard & ballot.cast.any(0))
    rows = np.where(voted[:, None], probs, 0).astype(np.float32)
    confidence = rows[np.arange(len(label)), label]
    return Verdict(np.where(voted, label, ABSTAINS).astype(np.int16), rows, confidence, facts or {})


CARDS = (
    Vote("soft", soft, "mean of the members' probabilities", invents=True),
    Vote("majority", majority, "most votes; equals by mean probability"),
    Vote("weighted", weighted, "votes counted by a matrix W[member, class]", {"weights": None}),
    Vote(
        "prior",
        prior,
        "calibrated mean, corrected for the class shares estimated from the clips themselves",
        {"prior": None, "calibrate": "bcts"},
        invents=True,
    ),
    Vote(
        "dawid-skene",
        skilled,
        "votes weighed by each member's estimated confusion of classes",
        {"iterations": 100, "smoothing": 1.0, "anchored": True},
        invents=True,
    ),
)
VOTES: Mapping[str, Vote] = {card.name: card for card in CARDS}
