"""Scoring a run against labels: the only place where the labels of a test split are read."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput
from mer_zoo.errors import ZooError
from mer_zoo.metrics import Scores, score
from mer_zoo.predict import predict
from mer_zoo.runs import EVALUATION, Run, find_run
from mer_zoo.trainset import HUMAN, check_split, default_layer

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.labels import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scores):
    """Scores of a run on a split, as they were put on record.

    Attributes:
        run: The run.
        split: The split.
        labels: The label layer; only its human labels count.
        record: Name of the record in the store.
        missing: Labelled clips of the split that have none of the run's features, and were not scored.
    """

    run: str
    split: str
    labels: str
    record: str = ""
    missing: tuple[str, ...] = ()


def evaluate(
    store: "Store",
    run: Run | str,
    split: str = "test",
    labels: str | None = None,
    *,
    device: str = "auto",
    command: str = "",
) -> Evaluation:
    """Score a run on the human-labelled clips of a split, and put it on record in the journal.

    Clips the run was trained on are scored by their out-of-fold predictions.

    Args:
        store: The store; it moves to the commit that records the evaluation.
        run: A run, or its name.
        split: Whose clips.
        labels: Label layer; None takes `gold`, or the only one.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split, layer or space.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        BadInput: A label is of a class the run does not know.
        ZooError: No clip of the split has a human label, or none has features.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    check_split(store, split)
    resolved = store.labels.resolve(labels or default_layer(store))
    truth = _truth(store, run, split, resolved)
    predicted = predict(store, run, keys=list(truth), device=device)
    label = np.array([truth[key] for key in predicted.keys], np.int64)
    scores = score(label, predicted.probs, predicted.classes)
    record = _record(store, run, split, resolved.name, scores, predicted.missing, command)
    kept = {name: getattr(scores, name) for name in Scores.__dataclass_fields__}
    return Evaluation(
        **kept, run=run.name, split=split, labels=resolved.name, record=record, missing=predicted.missing
    )


def _truth(store: "Store", run: Run, split: str, resolved: "Resolved") -> dict[str, int]:
    """Return key -> class index of the run, of the split's human-labelled clips."""
    split_keys = {clip.key for clip in store.clips.select(split=split)}
    to_run = _class_map(run, resolved.classes)
    truth = {}
    for key, label, source in zip(resolved.keys, resolved.label, resolved.source, strict=True):
        if source == HUMAN and key in split_keys:
            truth[key] = int(to_run[label])
            if truth[key] < 0:
                raise BadInput(
                    f"clip {key!r} is labelled {resolved.classes[label]!r}, a class {run.name} does not know",
                    "it knows: " + ", ".join(run.config.classes),
                )
    if not truth:
        raise ZooError(
            f"no clip of split {split!r} has a human label in {resolved.name!r}",
            "choose another --split or --labels, or import labels: mer-fs labels import",
        )
    return truth


def _class_map(run: Run, classes: tuple[str, ...]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(run.config.classes)}
    return np.array([place.get(name, -1) for name in classes], np.int64)


def _record(
    store: "Store",
    run: Run,
    split: str,
    labels: str,
    scores: Scores,
    missing: tuple[str, ...],
    command: str,
) -> str:
    facts: dict[str, Any] = {"type": EVALUATION, "run": run.name, "split": split, "labels": labels}
    document = {**facts, "scores": scores.to_json(), "missing": list(missing)}
    bundle = store.runs.add_numbered(
        f"{run.name}.{split}" if split.isascii() and split.isalnum() else f"{run.name}.split",
        {"scores.json": json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"},
        parents=(f"runs/{run.name}", f"labels/{labels}"),
        attrs={**facts, "n": scores.n, "waf": scores.waf, "uar": scores.uar, "accuracy": scores.accuracy},
        command=command,
        message=f"score {run.name} on {split}: WAF {scores.waf:.4f}",
    )
    return bundle.name
