"""A round of pseudo-labels: members predict and vote, sure clips are kept, a label layer is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, NameTaken, UnknownName
from mer_featurestore.names import check_name
from mer_zoo.ballots import ABSTAINS, Ballot, Selection, Verdict
from mer_zoo.errors import ZooError
from mer_zoo.predict import predict
from mer_zoo.runs import Run, find_run
from mer_zoo.selections import SELECTIONS
from mer_zoo.trainset import HUMAN, TEST, check_split, default_layer
from mer_zoo.votes import VOTES

if TYPE_CHECKING:
    from mer_featurestore import Clip, LabelLayer, Store
    from mer_featurestore.labels import Resolved

PSEUDO = 1


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
    threshold: float = 0.9,
    name: str = "round1",
    *,
    vote: str = "soft",
    vote_params: Mapping[str, Any] | None = None,
    select: str = "threshold",
    select_params: Mapping[str, Any] | None = None,
    device: str = "auto",
    command: str = "",
    message: str = "",
) -> Round:
    """Publish a label layer of the clips several runs are sure about.

    Human labels always win: a clip that has one under `over` is not judged. The layer holds every clip that
    was judged, dropped ones too, with each member's vote and the reason; only kept ones train.

    Args:
        store: The store; it moves to the commit that adds the layer.
        runs: The members, or their names.
        over: The layer the new one stands on; None takes `gold`, or the only one.
        split: Whose clips are judged. Test clips are judged only when `test` is asked for.
        threshold: Of the selection `threshold`.
        name: Of the new layer.
        vote: A name in `VOTES`.
        vote_params: Its parameters.
        select: A name in `SELECTIONS`.
        select_params: Its parameters.
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

    vote_params = _params("vote", vote, VOTES, vote_params)
    given = {**({"threshold": threshold} if select == "threshold" else {}), **(select_params or {})}
    given = _params("selection", select, SELECTIONS, given)
    _check_name(store, name)
    found = _members(store, runs)
    resolved = store.labels.resolve(over or default_layer(store))
    clips, human = _candidates(store, split, resolved)
    ballot = _ballot(store, found, clips, tuple(resolved.classes), device)
    verdict = VOTES[vote].function(ballot, **vote_params)
    selection = SELECTIONS[select].function(ballot, verdict, **given)
    kept = int((selection.kept & (verdict.label != ABSTAINS)).sum())
    if not kept:
        raise NothingKept(
            f"none of {len(clips)} clips is sure enough; the surest has {verdict.confidence.max():.3f}",
            "lower --threshold, or name other members; no layer was made",
        )
    attrs = {
        "split": split,
        "vote": vote,
        "vote_params": vote_params,
        "select": select,
        "select_params": given,
        "from_commit": store.commit,
    }
    layer = LabelLayer(
        **_columns(ballot, verdict, selection),
        name=name,
        parents=(f"labels/{resolved.name}", *(f"runs/{run.name}" for run in found)),
        attrs=attrs,
    )
    told = f"{name} over {resolved.name}: kept {kept} of {len(clips)} clips of {split}"
    store.labels.add(layer, command=command, message=message or told)
    return Round(layer, resolved.name, len(clips), kept, layer.counts(), human, _notices(split))


def _columns(ballot: Ballot, verdict: Verdict, selection: Selection) -> dict[str, Any]:
    return {
        "classes": ballot.classes,
        "keys": ballot.keys,
        "label": verdict.label,
        "probs": verdict.probs,
        "confidence": verdict.confidence,
        "source": np.full(len(ballot.keys), PSEUDO, np.uint8),
        "votes": ballot.votes,
        "members": ballot.members,
        "reason": selection.reason,
        "kept": selection.kept & (verdict.label != ABSTAINS),
    }


def _params(
    what: str, name: str, table: Mapping[str, Any], given: Mapping[str, Any] | None
) -> dict[str, Any]:
    if name not in table:
        raise UnknownName(what, name, table)
    for param in given or {}:
        if param not in table[name].params:
            raise UnknownName(f"parameter of the {what} {name}", param, table[name].params)
    return {**table[name].params, **(given or {})}


def _check_name(store: "Store", name: str) -> None:
    check_name(name, "label layer")
    if name in store.labels:
        raise NameTaken(
            f"there is a label layer {name!r} already, and it never changes", "choose another --as"
        )


def _members(store: "Store", runs: Sequence[Run | str]) -> list[Run]:
    if not runs:
        raise ZooError("a round needs members", "name runs: --run A --run B")
    found = [find_run(store, run) if isinstance(run, str) else run for run in runs]
    names = [run.name for run in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ZooError(f"run {min(twice)!r} is named twice", "name each member once")
    return found


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


def _ballot(
    store: "Store", runs: Sequence[Run], clips: "Sequence[Clip]", classes: tuple[str, ...], device: str
) -> Ballot:
    keys = tuple(clip.key for clip in clips)
    place = {key: i for i, key in enumerate(keys)}
    probs = np.zeros((len(runs), len(keys), len(classes)), np.float32)
    cast = np.zeros((len(runs), len(keys)), np.bool_)
    for m, run in enumerate(runs):
        columns = _columns_of(run, classes)
        predicted = predict(store, run, keys=keys, device=device)
        at = np.array([place[key] for key in predicted.keys])
        probs[m, at] = predicted.probs[:, columns]
        cast[m, at] = True
    return Ballot(tuple(f"runs/{run.name}" for run in runs), classes, keys, probs, cast)


def _columns_of(run: Run, classes: tuple[str, ...]) -> NDArray[np.int64]:
    if set(run.config.classes) != set(classes):
        raise BadInput(
            f"run {run.name!r} knows the classes {', '.join(run.config.classes)}, "
            f"and the layer has {', '.join(classes)}",
            "use runs trained on the layer's classes",
        )
    return np.array([run.config.classes.index(name) for name in classes])


def _notices(split: str) -> tuple[str, ...]:
    told = "these are test clips: a model trained on this layer leaves them out"
    return (told,) if split == TEST else ()
