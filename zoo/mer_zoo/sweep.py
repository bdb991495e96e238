"""How sure is sure enough? Volume, precision and resulting WAF by confidence threshold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore import LabelLayer
from mer_featurestore.errors import NameTaken
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Course, Experiment, decisions, keep, measure, set_exam, trained
from mer_zoo.members import find_members
from mer_zoo.proportions import wilson
from mer_zoo.pseudo_label import NothingKept, pseudo_label
from mer_zoo.strategies import find_vote
from mer_zoo.trainset import HUMAN, check_split

if TYPE_CHECKING:
    from mer_featurestore import Store


def sweep_threshold(
    store: "Store",
    course: Course,
    thresholds: Sequence[float],
    runs: Sequence[str],
    *,
    model: str = "agt",
    split: str = "unlabeled",
    vote: str = "soft",
    calibrate: str = "none",
    audit: str | None = None,
) -> Experiment:
    """Publish a round for each threshold, train on it, and judge against training on human labels alone.

    Args:
        store: The store; it gets the layers `NAME-0.9` and the runs trained on them.
        course: How runs are trained and judged.
        thresholds: Of confidence; each once.
        runs: Members that vote.
        model: Trained on each layer.
        split: Whose clips are labelled.
        vote: How.
        calibrate: How members are calibrated.
        audit: A layer with human labels of these clips, to measure precision by.

    Raises:
        UnknownName: No such run, model, layer, split or vote.
        ZooError: No threshold, one twice or outside 0 to 1, or a run or layer was made otherwise.
    """
    if not thresholds or len(set(thresholds)) < len(thresholds) or not all(0 <= t <= 1 for t in thresholds):
        raise ZooError("thresholds must be different numbers between 0 and 1", "give e.g. 0.8,0.9,0.95")
    exam = set_exam(store, course)
    # What was typed wrong is told now, and not when hours of training are over.
    find_members(store, runs)
    find_vote(vote)
    check_split(store, split)
    if audit is not None:
        store.labels.resolve(audit)
    base = trained(store, course, "human", model, labels=exam.labels)
    said, facts = {"human labels only": decisions(store, course, exam, base)}, {}
    parents = [f"labels/{exam.labels}", f"labels/{exam.truth}", *(f"runs/{run.name}" for run in base)]
    notices = []
    for threshold in sorted(thresholds):
        name = f"{course.name}-{threshold:g}"
        asked = {"threshold": threshold, "vote": vote, "calibrate": calibrate, "split": split}
        try:
            layer, told = _layer(store, course, name, exam.labels, runs, asked)
        except NothingKept as error:
            notices.append(f"{threshold:g}: {error.message}")
            continue
        notices += told
        line = f"p > {threshold:g}"
        made = trained(store, course, f"{threshold:g}", model, labels=name)
        said[line] = decisions(store, course, exam, made)
        facts[line] = {"kept": int(layer.kept.sum()), "judged": len(layer), **_precision(store, layer, audit)}
        parents += [f"labels/{name}", *(f"runs/{run.name}" for run in made)]
    lines = measure(exam.label, said, len(exam.classes), facts)
    return keep(
        store, "threshold-sweep", f"{course.judge} ({exam.truth})", lines, parents=parents,
        facts={"model": model, "members": list(runs), "vote": vote, "calibrate": calibrate, "audit": audit},
        notices=tuple(dict.fromkeys(notices)), command=course.command,
    )  # fmt: skip


def read_thresholds(texts: Sequence[str]) -> list[float]:
    """Read thresholds as typed.

    Raises:
        ZooError: One is no number.
    """
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise ZooError(f"not a threshold: {error}", "give e.g. 0.8,0.9,0.95") from None


def _layer(
    store: "Store", course: Course, name: str, over: str, runs: Sequence[str], asked: dict[str, Any]
) -> tuple[LabelLayer, tuple[str, ...]]:
    """Publish a round, or take the one that is there from an earlier, interrupted time; with its notices."""
    if name not in store.labels:
        options: dict[str, Any] = {"device": course.device, "command": course.command}
        made = pseudo_label(store, runs, over, name=name, **options, **asked)
        return made.layer, made.notices
    layer = store.labels[name]
    there = {option: layer.attrs.get(option) for option in ("vote", "calibrate", "split")}
    there["threshold"] = layer.attrs.get("select_params", {}).get("threshold")
    if there != asked or list(layer.attrs.get("members", ())) != list(runs):
        raise NameTaken(f"there is a layer {name!r} that was made otherwise", "choose another --as")
    return layer, ()


def _precision(store: "Store", layer: LabelLayer, audit: str | None) -> dict[str, Any]:
    """Return how many kept labels the audit layer knows, and the share that is right with its interval."""
    if audit is None:
        return {}
    truth = store.labels.resolve(audit)
    kept = [layer.keys[i] for i in np.flatnonzero(layer.kept)]
    right = [
        truth[key] == layer[key] for key in kept if key in truth and truth.source[truth.row(key)] == HUMAN
    ]
    if not right:
        return {"known": 0}
    return {"known": len(right), "precision": [sum(right) / len(right), *wilson(sum(right), len(right))]}
