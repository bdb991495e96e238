"""A round of pseudo-labels: members predict and vote, sure clips are kept, a label layer is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.errors import NameTaken
from mer_featurestore.names import check_name
from mer_zoo.ballots import ABSTAINS, Ballot, Selection, Verdict
from mer_zoo.errors import ZooError
from mer_zoo.members import collect, find_members
from mer_zoo.runs import Run
from mer_zoo.shares import Shares, estimate
from mer_zoo.strategies import complete, find_selection, find_vote
from mer_zoo.trainset import HUMAN, TEST, check_split, default_layer
from mer_zoo.voting import decide

if TYPE_CHECKING:
    from mer_featurestore import Clip, LabelLayer, Store
    from mer_featurestore.labels import Resolved

PSEUDO = 1
DOUBTFUL = 0.2  # total variation between two estimates of class shares from which on a person is told


class NothingKept(ZooError):
    """No clip was sure enough for a layer."""


@dataclass(frozen=True, slots=True)
class Round:
    """A published round, as it is told to a person.

    Attributes:
        layer: The label layer.
        over: What it stands on.
        judged: Clips that were voted on.
        kept: Those that were sure enough.
        counts: Kept clips per class.
        human: Clips of the split with a human label, which no vote can change.
        notices: What a person should know.
    """

    layer: "LabelLayer"
    over: str
    judged: int
    kept: int
    counts: dict[str, int]
    human: int
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the round as plain JSON values."""
        return {
            "layer": self.layer.name,
            "over": self.over,
            "judged": self.judged,
            "kept": self.kept,
            "counts": self.counts,
            "human": self.human,
            "notices": list(self.notices),
            "attrs": dict(self.layer.attrs),
        }


def pseudo_label(
    store: "Store",
    runs: Sequence[Run | str],
    over: str | None = None,
    split: str = "unlabeled",
    threshold: float | None = None,
    name: str = "round1",
    *,
    vote: str = "soft",
    vote_params: Mapping[str, Any] | None = None,
    select: str = "threshold",
    select_params: Mapping[str, Any] | None = None,
    calibrate: str = "none",
    device: str = "auto",
    command: str = "",
    message: str = "",
) -> Round:
    """Publish a label layer of the clips several runs are sure about.

    Human labels always win: a clip that has one under `over` is not judged. The layer holds every clip that
    was judged, dropped ones too, with each member's vote and the reason; only kept ones train. Its
    attributes say how it was made: `split`, `members`, `vote`, `select`, their parameters and what they
    found out, `calibrate` and each member's calibration, `shares` (see `mer_zoo.shares`: class shares of the
    judged clips, as estimated, whatever the vote), counts, and the commit it was made from.

    Args:
        store: The store; it moves to the commit that adds the layer.
        runs: The members, or their names.
        over: The layer the new one stands on; None takes `gold`, or the only one.
        split: Whose clips are judged. Test clips are judged only when `test` is asked for.
        threshold: Of a selection that has one; None takes its default.
        name: Of the new layer.
        vote: A way of voting (`mer_zoo.strategies.votes`).
        vote_params: Its parameters.
        select: A way of selecting (`mer_zoo.strategies.selections`).
        select_params: Its parameters.
        calibrate: How each member is calibrated on its out-of-fold predictions (`mer_zoo.calibration`).
        device: torch device, or `auto`.
        command: For the journal.
        message: For the journal; by default how many clips were kept.

    Raises:
        UnknownName: No such run, layer, split, vote, selection or parameter.
        NameTaken: There is a layer of that name.
        BadInput: The members' classes are not those of the layer.
        FingerprintMismatch: The store's features were made otherwise than those a member was trained on.
        NothingKept: No clip was sure enough.
        ZooError: There is no member, or no clip to judge.
    """
    from mer_featurestore import LabelLayer

    voter, selector = find_vote(vote), find_selection(select)
    vote_params = complete(voter, vote_params)
    given = complete(
        selector, {**({} if threshold is None else {"threshold": threshold}), **(select_params or {})}
    )
    _check_name(store, name)
    found = find_members(store, runs)
    resolved = store.labels.resolve(over or default_layer(store))
    clips, human = _candidates(store, split, resolved)
    keys = [clip.key for clip in clips]
    ballot, calibrations = collect(
        store, found, keys, tuple(resolved.classes), method=calibrate, device=device
    )
    verdict, shares = decide(ballot, voter, vote_params), estimate(ballot)
    selection = selector.function(ballot, verdict, **given)
    columns = _columns(ballot, verdict, selection)
    kept = int(columns["kept"].sum())
    if not kept:
        raise NothingKept(
            f"none of {len(clips)} clips is sure enough; the surest has {verdict.confidence.max():.3f}",
            "lower --threshold, or name other members; no layer was made",
        )
    attrs = {
        "split": split,
        "members": [run.name for run in found],
        "calibrate": calibrate,
        "calibration": {name: found.to_json() for name, found in calibrations.items()},
        "vote": vote,
        "vote_params": vote_params,
        "vote_facts": dict(verdict.facts),
        "shares": shares.to_json() if shares else None,
        "select": select,
        "select_params": given,
        "select_facts": dict(selection.facts),
        "judged": len(clips),
        "kept": kept,
        "human": human,
        "from_commit": store.commit,
    }
    layer = LabelLayer(
        **columns,
        name=name,
        parents=(f"labels/{resolved.name}", *(f"runs/{run.name}" for run in found)),
        attrs=attrs,
    )
    told = f"{name} over {resolved.name}: kept {kept} of {len(clips)} clips of {split}"
    store.labels.add(layer, command=command, message=message or told)
    return Round(
        layer, resolved.name, len(clips), kept, layer.counts(), human, _notices(split, verdict, shares)
    )


def _columns(ballot: Ballot, verdict: Verdict, selection: Selection) -> dict[str, Any]:
    return {
        "classes": ballot.classes,
        "keys": ballot.keys,
        "label": verdict.label,
        "probs": verdict.probs,
        "confidence": verdict.confidence if selection.weight is None else selection.weight,
        "source": np.full(len(ballot.keys), PSEUDO, np.uint8),
        "votes": ballot.votes,
        "members": ballot.members,
        "reason": selection.reason,
        "kept": selection.kept & (verdict.label != ABSTAINS),
    }


def _check_name(store: "Store", name: str) -> None:
    check_name(name, "label layer")
    if name in store.labels:
        raise NameTaken(
            f"there is a label layer {name!r} already, and it never changes", "choose another --as"
        )


def _candidates(store: "Store", split: str, resolved: "Resolved") -> "tuple[list[Clip], int]":
    check_split(store, split)
    certain = {k for k, source in zip(resolved.keys, resolved.source, strict=True) if source == HUMAN}
    clips = store.clips.select(split=split)
    open_ = [clip for clip in clips if clip.key not in certain]
    if not open_:
        raise ZooError(
            f"all {len(clips)} clips of split {split!r} have a human label in {resolved.name!r}",
            "choose another --split",
        )
    return open_, len(clips) - len(open_)


def _notices(split: str, verdict: Verdict, shares: Shares | None) -> tuple[str, ...]:
    told = []
    if split == TEST:
        told.append("these are test clips: a model trained on this layer leaves them out")
    if verdict.facts.get("estimated") and shares and shares.apart > DOUBTFUL:
        told.append(
            f"the class shares estimated by EM and by BBSE are {shares.apart:.2f} apart (total variation): "
            "look at mer-zoo priors before you trust this vote"
        )
    return tuple(told)
