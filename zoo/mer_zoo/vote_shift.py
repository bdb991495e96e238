"""Do votes that know about class shares help when shares shift, and harm when they do not?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mer_zoo.bootstrap import percentile, scores_of
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Experiment, Line, keep
from mer_zoo.label_shift import class_shares
from mer_zoo.members import collect, find_members
from mer_zoo.runs import Run
from mer_zoo.settings import check_seed
from mer_zoo.strategies import find_vote
from mer_zoo.trainset import TEST, default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store

VOTES = ("majority", "soft", "prior", "dawid-skene")


def vote_shift(
    store: "Store",
    runs: Sequence[Run | str],
    *,
    votes: Sequence[str] = VOTES,
    judge: str = TEST,
    labels: str | None = None,
    calibrate: str = "bcts",
    draws: int = 50,
    seed: int = 0,
    device: str = "auto",
    command: str = "",
) -> Experiment:
    """Draw clips of a labelled split in other class shares, let members vote, and compare the votes.

    Shares are those of training, balanced, and shifted (inverse to training). Every draw takes as many clips
    as the shares allow, without replacement; the intervals are over draws and do not hold the uncertainty of
    the members.

    Args:
        store: The store.
        runs: Members.
        votes: Ways of voting, with their defaults; the first is what the others are compared with.
        judge: The split.
        labels: Layer with its human labels; None takes `gold`, or the only one.
        calibrate: How members are calibrated.
        draws: How many of each shares.
        seed: Decides them.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, vote, split or layer.
        ZooError: Fewer draws than two, no vote, or a class of the training labels without a clip in the
            split.
    """
    if draws < 2 or not votes:
        raise ZooError(f"{draws} draws of {len(votes)} votes", "use 2 draws or more, and name a vote")
    check_seed(seed)
    cards = [find_vote(name) for name in dict.fromkeys(votes)]
    members = find_members(store, runs)
    layer = labels or default_layer(store)
    truth = human_labels(store, layer, judge)
    classes, keys = tuple(store.labels[layer].classes), tuple(sorted(truth))
    label = class_indices(truth, keys, classes, layer)
    ballot, _ = collect(store, members, keys, classes, method=calibrate, device=device)
    held = ballot.held_out
    train = class_shares(held.label if held is not None else label, len(classes))
    lines: list[Line] = []
    for shares, target in _targets(train).items():
        rng = np.random.default_rng(seed)
        found: dict[str, list[tuple[float, float]]] = {card.name: [] for card in cards}
        for _ in range(draws):
            at = draw(label, target, rng, classes)
            part = ballot.take(at, held)
            for card in cards:
                said = card.function(part, **card.params).label.astype(np.int64)
                found[card.name].append(_scores(label[at], said, len(classes)))
        first = np.array(found[cards[0].name])
        lines += [_line(f"{shares}: {name}", np.array(values), first) for name, values in found.items()]
    return keep(
        store, "vote-shift", f"{judge} ({layer})", lines, command=command,
        parents=[f"labels/{layer}", *(f"runs/{run.name}" for run in members)],
        facts={"votes": [card.name for card in cards], "calibrate": calibrate, "draws": draws, "seed": seed},
    )  # fmt: skip


def draw(
    label: NDArray[np.int64], target: NDArray[np.float64], rng: np.random.Generator, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Return positions of clips in the target shares, as many as there can be, sorted.

    Raises:
        ZooError: A class with a share has no clip.
    """
    there = np.bincount(label, minlength=len(target))
    if (empty := np.flatnonzero((target > 0) & (there == 0))).size:
        raise ZooError(
            f"no clip of class {classes[empty[0]]!r} can be drawn", "judge on a split that has all classes"
        )
    some = target > 0
    total = float((there[some] / target[some]).min())
    take = np.maximum(np.floor(total * target + 1e-9).astype(np.int64), some)
    parts = [rng.permutation(np.flatnonzero(label == c))[:n] for c, n in enumerate(take)]
    return np.sort(np.concatenate(parts))


def _targets(train: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    some = train > 0
    inverse = np.where(some, 1 / np.where(some, train, 1), 0.0)
    return {"as in training": train, "balanced": some / some.sum(), "shifted": inverse / inverse.sum()}


def _scores(label: NDArray[np.int64], said: NDArray[np.int64], classes: int) -> tuple[float, float]:
    voted = said >= 0
    pairs = label[voted] * classes + said[voted]
    scores = scores_of(np.bincount(pairs, minlength=classes**2).reshape(classes, classes))
    return float(scores["waf"]), float(scores["uar"])


def _line(name: str, values: NDArray[np.float64], first: NDArray[np.float64]) -> Line:
    (waf, uar), (gain, uar_gain) = values.T, (values - first).T
    return Line(
        name=name, waf=float(waf.mean()), waf_interval=percentile(waf), uar=float(uar.mean()),
        uar_interval=percentile(uar), gain=float(gain.mean()), gain_interval=percentile(gain),
        uar_gain=float(uar_gain.mean()), uar_gain_interval=percentile(uar_gain), seeds=len(values),
    )  # fmt: skip
