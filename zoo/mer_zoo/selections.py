"""Ways of selecting: which of the voted labels are sure enough to train on, and why.

FlexMatch, FreeMatch and SoftMatch adapt their thresholds while a network trains; a round judges all clips at
once, so their running means are plain means over the round here (*reconstructed*).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.ballots import ABSTAINS, Ballot, HeldOut, Select, Selection, Verdict
from mer_zoo.errors import ZooError
from mer_zoo.label_noise import class_confidence
from mer_zoo.label_shift import class_shares
from mer_zoo.shares import given as given_shares

UNVOTED = "no member voted on it"
_NEVER = 1.0  # nothing is surer


def threshold(ballot: Ballot, verdict: Verdict, *, threshold: float = 0.9) -> Selection:  # noqa: ARG001 - the one signature
    """Keep what is surer than one threshold for all classes (p > 0.9 in Shi and Gao 2024).

    Raises:
        ZooError: A threshold outside 0 to 1.
    """
    _check("threshold", threshold)
    kept = _voted(verdict) & (verdict.confidence > threshold)
    return _said(verdict, kept, f"confidence above {threshold:g}", f"confidence {threshold:g} or lower")


def per_class(
    ballot: Ballot,
    verdict: Verdict,
    *,
    threshold: float = 0.9,
    thresholds: Mapping[str, float] | None = None,
) -> Selection:
    """Keep what is surer than its class's threshold; classes that are not named take `threshold`.

    Raises:
        UnknownName: A class that is not on the ballot.
        ZooError: A threshold outside 0 to 1.
    """
    limits = np.full(len(ballot.classes), float(threshold))
    _check("threshold", threshold)
    for name, value in (thresholds or {}).items():
        if name not in ballot.classes:
            raise UnknownName("class", name, ballot.classes)
        _check(f"threshold of {name}", value)
        limits[ballot.classes.index(name)] = value
    return _by_class(ballot, verdict, limits)


def learned(ballot: Ballot, verdict: Verdict, *, precision: float = 0.9, least: int = 5) -> Selection:
    """Keep what is as sure as it takes for a class to be right often enough on held-out clips.

    The threshold of a class is the lowest confidence from which on `precision` of the held-out clips voted
    into it are right. A class that never gets there, on `least` clips or more, keeps nothing.

    Raises:
        ZooError: There are no held-out clips, or a precision outside 0 to 1.
    """
    _check("precision", precision)
    held, judged = _held_out(ballot, verdict)
    limits = np.full(len(ballot.classes), _NEVER)
    for c in range(len(ballot.classes)):
        mine = judged.label == c
        sure, right = judged.confidence[mine], held.label[mine] == c
        limits[c] = _lowest(sure, right, precision, least)
    return _by_class(
        ballot, verdict, limits, f"no threshold has a precision of {precision:g} on held-out clips"
    )


def flexmatch(ballot: Ballot, verdict: Verdict, *, threshold: float = 0.9, warm_up: bool = True) -> Selection:
    """Lower thresholds for classes that are rarely sure (FlexMatch, Zhang et al. 2021, arXiv 2110.08263).

    τ_c = τ · M(β_c), M(β) = β / (2 - β), β_c = n_c / max n, n_c the clips voted into c that are surer than
    τ; with `warm_up` the denominator is at least the number of clips that are not.
    """
    _check("threshold", threshold)
    sure = _voted(verdict) & (verdict.confidence > threshold)
    sigma = np.bincount(verdict.label[sure], minlength=len(ballot.classes)).astype(np.float64)
    most = max(sigma.max(), float(len(sure) - sure.sum()) if warm_up else 0.0, 1.0)
    beta = sigma / most
    return _by_class(ballot, verdict, threshold * beta / (2 - beta))


def freematch(ballot: Ballot, verdict: Verdict) -> Selection:
    """Thresholds from the predictions themselves (FreeMatch, Wang et al. 2023, arXiv 2205.07246).

    The global one is the mean of the top probabilities; a class's is that times its mean probability,
    relative to the highest of any class.
    """
    voted = _voted(verdict)
    if not voted.any():
        return _by_class(ballot, verdict, np.full(len(ballot.classes), _NEVER))
    probs = verdict.probs[voted].astype(np.float64)
    local = probs.mean(0)
    return _by_class(ballot, verdict, probs.max(1).mean() * local / local.max())


def top_k(
    ballot: Ballot,
    verdict: Verdict,
    *,
    target: str | Mapping[str, float] = "train",
    total: int = 0,
    minimum: float = 0.0,
) -> Selection:
    """Keep the surest clips of each class, as many as a target distribution asks for; equals by key.

    Args:
        ballot: What was voted on.
        verdict: What the vote says.
        target: Class -> share; or `train` (held-out human labels), `estimated` (the vote's own prior, else
            its mean probabilities) or `uniform`.
        total: Clips to keep at most; 0 for as many as fit the target exactly with the classes that occur.
        minimum: Clips must be surer than this.

    Raises:
        UnknownName: A class that is not on the ballot, or no such target.
        ZooError: A negative total, a minimum outside 0 to 1, or no held-out clips for `train`.
    """
    _check("minimum", minimum)
    if total < 0:
        raise ZooError(f"a total of {total} clips cannot be kept", "use 0 or more")
    share = _target(ballot, verdict, target)
    open_ = _voted(verdict) & (verdict.confidence > minimum)
    there = np.bincount(verdict.label[open_], minlength=len(share))
    some = (share > 0) & (there > 0)
    most = float((there[some] / share[some]).min()) if some.any() else 0.0
    quota = np.floor((total or most) * share + 1e-9).astype(np.int64)
    kept = np.zeros(len(open_), np.bool_)
    order = sorted(np.flatnonzero(open_), key=lambda i: (-verdict.confidence[i], ballot.keys[i]))
    for i in order:
        c = verdict.label[i]
        if quota[c] > 0:
            kept[i] = True
            quota[c] -= 1
    facts = {
        "target": _named(ballot, share),
        "kept": _named(ballot, np.bincount(verdict.label[kept], minlength=len(share))),
    }
    return _said(
        verdict, kept, "among the surest of its class", "not among the surest of its class", facts=facts
    )


def agreement(ballot: Ballot, verdict: Verdict, *, members: int = 2, threshold: float = 0.0) -> Selection:
    """Keep clips whose label at least `members` members vote for, and that are surer than `threshold`.

    Raises:
        ZooError: More members than there are, fewer than one, or a threshold outside 0 to 1.
    """
    _check("threshold", threshold)
    if not 1 <= members <= len(ballot.members):
        raise ZooError(
            f"{members} members cannot agree among {len(ballot.members)}",
            f"use 1 to {len(ballot.members)}",
        )
    agree = (ballot.votes == verdict.label[:, None]).sum(1)
    kept = _voted(verdict) & (agree >= members) & (verdict.confidence > threshold)
    reason = np.array([f"{n} of {len(ballot.members)} members agree" for n in agree])
    unsure = (agree >= members) & ~kept
    reason[unsure] = f"confidence {threshold:g} or lower"
    return Selection(kept, _reasons(verdict, reason))


def softmatch(ballot: Ballot, verdict: Verdict, *, spread: float = 2.0, minimum: float = 0.01) -> Selection:  # noqa: ARG001 - the one signature
    """Keep nearly all, weighted by how sure they are (SoftMatch, Chen et al. 2023, arXiv 2301.10921).

    A clip weighs exp(-(p - μ)² · spread² / 2v) when its top probability p is below the mean μ of all (v
    their variance), else 1 (`spread` 2 is the authors' code). Train on the layer with `--soft-labels
    --confidence-weights`.

    Raises:
        ZooError: A spread that is not positive, or a minimum outside 0 to 1.
    """
    _check("minimum", minimum)
    if not spread > 0:
        raise ZooError(f"spread is {spread:g}", "use a number above 0")
    voted = _voted(verdict)
    p = verdict.confidence.astype(np.float64)
    mean, variance = (p[voted].mean(), p[voted].var()) if voted.any() else (0.0, 0.0)
    below = np.minimum(p - mean, 0.0)
    weight = np.exp(-(below**2) * spread**2 / (2 * max(variance, 1e-12))) * voted
    kept = voted & (weight > minimum)
    facts = {"mean": float(mean), "variance": float(variance)}
    return _said(
        verdict,
        kept,
        "weighted by confidence",
        f"a weight of {minimum:g} or lower",
        weight.astype(np.float32),
        facts,
    )


def confident(ballot: Ballot, verdict: Verdict) -> Selection:
    """Keep labels that confident learning does not doubt (Northcutt, Jiang, Chuang 2021, arXiv 1911.00068).

    A class's bar is its mean probability on held-out clips that people put into it. A label is kept when its
    probability reaches its bar, and no other class that reaches its own is likelier.

    Raises:
        ZooError: There are no held-out clips.
    """
    held, judged = _held_out(ballot, verdict)
    bar = class_confidence(judged.probs, held.label)
    reaches = verdict.probs >= bar
    best = np.where(reaches, verdict.probs, -1.0).argmax(1)
    kept = _voted(verdict) & reaches.any(1) & (best == verdict.label)
    other = np.array([f"{ballot.classes[c]} is likelier" for c in best])
    why = np.where(reaches.any(1), other, "no class reaches its mean confidence on held-out clips")
    return _said(
        verdict,
        kept,
        "reaches its class's mean confidence",
        why,
        facts={"bars": _named(ballot, np.nan_to_num(bar, posinf=2.0))},
    )


def _lowest(sure: NDArray[np.float32], right: NDArray[np.bool_], precision: float, least: int) -> float:
    """Return a threshold just below the lowest confidence from which on enough are right; else 1."""
    order = np.argsort(-sure, kind="stable")
    sure, hits = sure[order], right[order].cumsum()
    number = np.arange(1, len(sure) + 1)
    last = np.ones(len(sure), np.bool_)
    last[:-1] = sure[1:] != sure[:-1]  # equals are kept together or not at all
    enough = np.flatnonzero(last & (number >= least) & (hits >= precision * number - 1e-9))
    return float(np.nextafter(sure[enough[-1]], np.float32(0))) if len(enough) else _NEVER


def _by_class(ballot: Ballot, verdict: Verdict, limits: NDArray[np.float64], never: str = "") -> Selection:
    limit = limits[np.maximum(verdict.label, 0)]
    kept = _voted(verdict) & (verdict.confidence > limit)
    facts = {"thresholds": _named(ballot, limits)}
    above = [f"confidence above {t:.4g} ({c})" for t, c in zip(limits, ballot.classes, strict=True)]
    below = [
        f"{never} ({c})" if never and t >= _NEVER else f"confidence {t:.4g} or lower ({c})"
        for t, c in zip(limits, ballot.classes, strict=True)
    ]
    label = np.maximum(verdict.label, 0)
    return _said(verdict, kept, np.array(above)[label], np.array(below)[label], facts=facts)


def _target(ballot: Ballot, verdict: Verdict, target: str | Mapping[str, float]) -> NDArray[np.float64]:
    C = len(ballot.classes)
    if isinstance(target, Mapping):
        return given_shares(ballot.classes, target)
    if target == "train":
        return class_shares(_held_out(ballot, verdict)[0].label, C)
    if target == "estimated":
        prior = verdict.facts.get("prior")
        mean = (
            verdict.probs[_voted(verdict)].astype(np.float64).mean(0) if _voted(verdict).any() else np.ones(C)
        )
        return np.array([prior[c] for c in ballot.classes]) if prior else mean / mean.sum()
    if target == "uniform":
        return np.full(C, 1 / C)
    raise UnknownName("target", str(target), ("train", "estimated", "uniform"))


def _held_out(ballot: Ballot, verdict: Verdict) -> tuple[HeldOut, Verdict]:
    if ballot.held_out is None or verdict.held_out is None:
        raise ZooError(
            "this selection learns from out-of-fold predictions of human-labelled clips, and there are none",
            "use members trained on human labels, or --select threshold",
        )
    return ballot.held_out, verdict.held_out


def _check(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ZooError(f"{name} is {value:g}", "use a probability between 0 and 1")


def _voted(verdict: Verdict) -> NDArray[np.bool_]:
    voted: NDArray[np.bool_] = verdict.label != ABSTAINS
    return voted


def _named(ballot: Ballot, values: NDArray[Any]) -> dict[str, Any]:
    return dict(zip(ballot.classes, np.asarray(values).tolist(), strict=True))


def _said(
    verdict: Verdict,
    kept: NDArray[np.bool_],
    why: str | NDArray[np.str_],
    why_not: str | NDArray[np.str_],
    weight: NDArray[np.float32] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Selection:
    return Selection(kept, _reasons(verdict, np.where(kept, why, why_not)), weight, facts or {})


def _reasons(verdict: Verdict, reason: NDArray[np.str_]) -> tuple[str, ...]:
    return tuple(str(r) for r in np.where(_voted(verdict), reason, UNVOTED))


CARDS = (
    Select("threshold", threshold, "one confidence threshold for all classes", {"threshold": 0.9}),
    Select(
        "per-class",
        per_class,
        "a threshold for each class, as given",
        {"threshold": 0.9, "thresholds": None},
    ),
    Select(
        "learned",
        learned,
        "a threshold for each class, learned on held-out clips for a precision",
        {"precision": 0.9, "least": 5},
    ),
    Select(
        "flexmatch",
        flexmatch,
        "lower thresholds for classes that are rarely sure",
        {"threshold": 0.9, "warm_up": True},
    ),
    Select("freematch", freematch, "thresholds from the predictions themselves"),
    Select(
        "top-k",
        top_k,
        "the surest of each class, to a target distribution",
        {"target": "train", "total": 0, "minimum": 0.0},
    ),
    Select("agreement", agreement, "at least so many members agree", {"members": 2, "threshold": 0.0}),
    Select("softmatch", softmatch, "nearly all, weighted by confidence", {"spread": 2.0, "minimum": 0.01}),
    Select("confident", confident, "labels that confident learning does not doubt"),
)
SELECTIONS: Mapping[str, Select] = {card.name: card for card in CARDS}
