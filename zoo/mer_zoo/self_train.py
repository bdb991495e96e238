"""Self-training: train members, let them label what nobody labelled, train again, for as long as it helps.

A loop called `round` makes the runs `round0-agt` … on the human labels, the layer `round1` by their vote,
the runs `round1-agt` … on it, and so on. All state is in the store, under names derived from the loop's:
what is there is not made again, so that a loop that was interrupted goes on where it was, and one that is
done is only told again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import NameTaken
from mer_featurestore.names import check_name
from mer_zoo.bootstrap import intervals, scores_of
from mer_zoo.errors import ZooError
from mer_zoo.loop_table import Loop, Stage, describe
from mer_zoo.members import collect_held_out
from mer_zoo.pseudo_label import NothingKept, pseudo_label
from mer_zoo.recruits import Recruit, check_distinct, read_recruit
from mer_zoo.registry import complete_params, find_model
from mer_zoo.rules import Rules
from mer_zoo.runs import Run, dump, find_run
from mer_zoo.settings import Settings, check_seed
from mer_zoo.spaces import choose
from mer_zoo.train import train
from mer_zoo.trainset import check_split, default_layer, train_set
from mer_zoo.votes import weight_matrix

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.resolve import Resolved

PLAN = "self-training plan"
_FIRST_ONLY = ("params",)  # told to the first member alone; others have other parameters


def self_train(
    store: "Store",
    model: str,
    *,
    rounds: int = 3,
    labels: str | None = None,
    name: str = "round",
    members: Sequence[str] = (),
    features: Sequence[str] | None = None,
    split: str = "unlabeled",
    rules: Rules | None = None,
    stop_after: int = 1,
    audit: str | None = None,
    folds: int = 5,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    train_split: str = "train",
    soft_labels: bool = False,
    confidence_weights: bool = False,
    warm: bool = False,
    device: str = "auto",
    told: Callable[[str], None] | None = None,
    command: str = "",
) -> Loop:
    """Run a loop of self-training, or go on with one.

    The loop ends after `rounds` rounds, when the out-of-fold WAF on human labels has not risen for
    `stop_after` rounds, or when no clip is sure enough. That WAF is optimistic from the first round on:
    pseudo-labels come from models that have seen, between them, all human labels. `mer-zoo evaluate` on
    another split is the honest number.

    Args:
        store: The store.
        model: The first member, which reads `features`.
        rounds: At most; a loop may be made longer later.
        labels: The human labels; None takes `gold`, or the only layer.
        name: Of the loop.
        members: More members, `model` or `model:space,space`.
        features: Spaces of the first member; None takes the only ones.
        split: Whose clips are labelled.
        rules: How they are; members are named as typed where a rule names them.
        stop_after: Rounds without a higher WAF that end the loop.
        audit: A layer with human labels of these clips, to measure precision by; it decides nothing.
        folds: How many.
        seed: Of every training.
        params: Of the first member.
        settings: Of training.
        train_split: Whose human labels may be seen.
        soft_labels: Whether pseudo-labels train as probabilities.
        confidence_weights: Whether a pseudo-labelled clip counts by its confidence.
        warm: Whether each fold of a round begins with the weights of the same fold of the round before.
        device: torch device, or `auto`.
        told: Called with a line about each step that is taken.
        command: For the journal.

    Raises:
        ZooError: The loop was begun with other options; the message shows which.
        NameTaken: Names the loop needs are used by something else.
        UnknownName: No such model, space, layer, split …
    """
    if rounds < 1 or stop_after < 1:
        raise ZooError(f"{rounds} rounds, stopping after {stop_after}", "use 1 or more of each")
    recruits = (Recruit(model, tuple(features) if features else None), *map(read_recruit, members))
    check_distinct(recruits)
    training: dict[str, Any] = {
        "folds": folds,
        "seed": seed,
        "params": dict(params or {}),
        "settings": (settings or Settings()).to_json(),
        "split": train_split,
        "soft_labels": soft_labels,
        "confidence_weights": confidence_weights,
        "warm": warm,
    }
    plan = {
        "labels": labels or default_layer(store),
        "members": [str(recruit) for recruit in recruits],
        "over": split,
        "rules": (rules or Rules()).to_json(),
        "stop_after": stop_after,
        "training": training,
    }
    truth = store.labels.resolve(audit) if audit else None
    store.refresh()
    if f"{name}.plan" not in store.runs:
        _check(store, recruits, plan)
    _begin(store, name, plan, rounds, command)
    work = _Work(store, name, recruits, plan, device, command, told or (lambda _: None))
    stages, stopped = _run(work, rounds, stop_after)
    return Loop(
        name=name,
        stages=tuple(_stage(work, k, found, truth) for k, found in enumerate(stages)),
        stopped=stopped,
    )


@dataclass(frozen=True)
class _Work:
    """What every step of a loop needs."""

    store: "Store"
    name: str
    recruits: tuple[Recruit, ...]
    plan: Mapping[str, Any]
    device: str
    command: str
    told: Callable[[str], None]

    def layer(self, k: int) -> str:
        """Return the name of the layer that stage k trains on."""
        return f"{self.name}{k}" if k else str(self.plan["labels"])

    def runs(self, k: int) -> tuple[str, ...]:
        """Return the names of the runs of stage k."""
        return tuple(f"{self.name}{k}-{recruit.label}" for recruit in self.recruits)


def _check(store: "Store", recruits: Sequence[Recruit], plan: Mapping[str, Any]) -> None:
    """Look up what the loop will need: once on record, a plan with a slip in it needs another name."""
    training = plan["training"]
    check_seed(training["seed"])
    chosen = train_set(store, plan["labels"], training["split"])
    check_split(store, plan["over"])
    weights = plan["rules"]["vote_params"].get("weights") or {}
    weight_matrix([str(recruit) for recruit in recruits], chosen.classes, weights)
    for i, recruit in enumerate(recruits):
        card = find_model(recruit.model)
        choose(store, card, recruit.features)
        complete_params(card, {} if i else training["params"])


def _begin(store: "Store", name: str, plan: Mapping[str, Any], rounds: int, command: str) -> None:
    """Put the plan on record, or see that it is the one on record."""
    check_name(f"{name}.plan", "run")
    if f"{name}.plan" not in store.runs:
        taken = [f"{name}{k}" for k in range(1, rounds + 1) if f"{name}{k}" in store.labels]
        taken += [run for run in store.runs if run.startswith(f"{name}0-")]
        if taken:
            raise NameTaken(
                f"there is {taken[0]!r} already, and it is not of this loop", "choose another --as"
            )
        attrs = {"type": PLAN, "members": plan["members"], "labels": plan["labels"]}
        told = f"begin self-training {name} over {plan['labels']}"
        parents = (f"labels/{plan['labels']}",)
        store.runs.add(
            f"{name}.plan",
            {"plan.json": dump(plan)},
            parents=parents,
            attrs=attrs,
            command=command,
            message=told,
        )
        return
    begun = store.runs[f"{name}.plan"].json("plan.json")
    # Loops begun before there was a choice have not made it: they go on with what was done then.
    begun["training"].setdefault("warm", False)
    begun["training"]["settings"] = Settings.from_json(begun["training"]["settings"]).to_json()
    differing = [f"{path} was {old!r} and is {new!r}" for path, old, new in _differences(begun, _plain(plan))]
    if differing:
        raise ZooError(
            f"the loop {name!r} was begun with other options: " + "; ".join(differing),
            "go on with the same options, or choose another --as",
        )


def _run(work: _Work, rounds: int, stop_after: int) -> tuple[list[NDArray[np.int64]], str]:
    """Take the steps that are missing; return each stage's confusion, and why the loop ended."""
    found: list[NDArray[np.int64]] = []
    best, waited = -1.0, 0
    for k in range(rounds + 1):
        _train(work, k)
        found.append(_confusion(work, k))
        waf = float(scores_of(found[-1])["waf"])
        waited = 0 if waf > best else waited + 1
        best = max(best, waf)
        work.told(f"{work.layer(k)}: out-of-fold WAF {waf:.4f}")
        if waited >= stop_after:
            return found, f"WAF did not rise for {stop_after} round{'s' * (stop_after > 1)}"
        if k == rounds:
            break
        try:
            _publish(work, k + 1)
        except NothingKept as error:
            return found, error.message
    return found, f"all {rounds} rounds are made"


def _train(work: _Work, k: int) -> None:
    options = dict(work.plan["training"])
    before = work.runs(k - 1) if options.pop("warm") and k else [None] * len(work.recruits)
    options["settings"] = Settings.from_json(options["settings"])
    for i, (recruit, run, parent) in enumerate(zip(work.recruits, work.runs(k), before, strict=True)):
        if run in work.store.runs:
            continue
        own = {option: value for option, value in options.items() if i == 0 or option not in _FIRST_ONLY}
        train(
            work.store,
            recruit.model,
            features=recruit.features,
            labels=work.layer(k),
            name=run,
            warm=parent,
            device=work.device,
            command=work.command,
            **own,
        )
        work.told(f"trained {run}")


def _publish(work: _Work, k: int) -> None:
    """Publish round k by the vote of stage k - 1, unless it is there."""
    if work.layer(k) in work.store.labels:
        return
    rules = Rules(**work.plan["rules"])
    if weights := rules.vote_params.get("weights"):
        named = {str(r): run for r, run in zip(work.recruits, work.runs(k - 1), strict=True)}
        rules = replace(
            rules,
            vote_params={**rules.vote_params, "weights": {named.get(m, m): w for m, w in weights.items()}},
        )
    made = pseudo_label(
        work.store,
        work.runs(k - 1),
        work.layer(k - 1),
        str(work.plan["over"]),
        name=work.layer(k),
        device=work.device,
        command=work.command,
        **rules.to_json(),
    )
    work.told(f"published {work.layer(k)}: {made.kept} of {made.judged} clips")
    for notice in made.notices:
        work.told(f"Note: {notice}")


def _confusion(work: _Work, k: int) -> NDArray[np.int64]:
    """Count labels and decisions of the members' mean, out of fold, on human-labelled clips."""
    runs: list[Run] = [find_run(work.store, run) for run in work.runs(k)]
    classes = runs[0].config.classes
    held = collect_held_out(work.store, runs, classes)
    C = len(classes)
    pairs = held.label * C + held.ballot.mean.argmax(1)
    return np.bincount(pairs, minlength=C * C).reshape(C, C).astype(np.int64)


def _stage(work: _Work, k: int, confusion: NDArray[np.int64], truth: "Resolved | None") -> Stage:
    scores, spread = scores_of(confusion), intervals(confusion)
    return Stage(
        number=k,
        layer=work.layer(k),
        labelled=describe(work.store, work.layer(k), work.layer(k - 1) if k > 1 else None, truth)
        if k
        else None,
        runs=work.runs(k),
        waf=float(scores["waf"]),
        waf_interval=spread["waf"],
        uar=float(scores["uar"]),
        uar_interval=spread["uar"],
    )


def _plain(document: Any) -> Any:
    """Return a document as it reads after a round trip through JSON."""
    import json

    return json.loads(dump(document))


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return the leaves that differ, with where they are."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if old == new else [(path, old, new)]
