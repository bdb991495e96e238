"""Scoring a run against labels, on record: nothing reads the labels of a test split without it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mer_zoo.guards import flattered
from mer_zoo.metrics import Scores, score
from mer_zoo.predict import predict
from mer_zoo.runs import EVALUATION, Run, dump, find_run
from mer_zoo.trainset import default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scores):
    """Scores of a run on a split, as they were put on record.

    Attributes:
        run: The run.
        split: The split.
        labels: The label layer; only its human labels count.
        record: Name of the record in the store.
        missing: Labelled clips of the split that have none of the run's features, and were not scored.
        notices: What a person should know, such as copies of training clips among them.
    """

    run: str
    split: str
    labels: str
    record: str = ""
    missing: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


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
    layer = labels or default_layer(store)
    truth = human_labels(store, layer, split)
    class_indices(truth, list(truth), run.config.classes, run.name)
    predicted = predict(store, run, keys=list(truth), device=device)
    label = class_indices(truth, predicted.keys, predicted.classes, run.name)
    scores = score(label, predicted.probs, predicted.classes)
    record = put_on_record(store, run, split, layer, scores, predicted.missing, command=command)
    kept = {name: getattr(scores, name) for name in Scores.__dataclass_fields__}
    return Evaluation(
        **kept,
        run=run.name,
        split=split,
        labels=layer,
        record=record,
        missing=predicted.missing,
        notices=tuple(flattered(store, run, predicted.keys)),
    )


def put_on_record(
    store: "Store",
    run: Run,
    split: str,
    labels: str,
    scores: Scores,
    missing: tuple[str, ...] = (),
    *,
    command: str = "",
) -> str:
    """Say in the journal that a run was scored on a split, and how; return the name of the record."""
    facts: dict[str, Any] = {"type": EVALUATION, "run": run.name, "split": split, "labels": labels}
    document = {**facts, "scores": scores.to_json(), "missing": list(missing)}
    bundle = store.runs.add_numbered(
        f"{run.name}.{split}" if split.isascii() and split.isalnum() else f"{run.name}.split",
        {"scores.json": dump(document)},
        parents=(f"runs/{run.name}", f"labels/{labels}"),
        attrs={**facts, "n": scores.n, "waf": scores.waf, "uar": scores.uar, "accuracy": scores.accuracy},
        command=command,
        message=f"score {run.name} on {split}: WAF {scores.waf:.4f}",
    )
    return bundle.name
