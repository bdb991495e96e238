"""Collects what a report shows from a store."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mer_featurestore.label_layer import HUMAN, PSEUDO
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import put_on_record
from mer_zoo.metrics import Scores, score
from mer_zoo.predict import predict
from mer_zoo.report.model import LayerView, Mistake, Report, RunView
from mer_zoo.runs import Run, find_run, list_evaluations
from mer_zoo.trainset import default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.resolve import Resolved

MISTAKES = 8


def gather(
    store: "Store",
    names: Sequence[str],
    split: str,
    labels: str | None,
    title: str,
    note: str,
    *,
    command: str = "",
) -> Report:
    """Predict the split with every run, compare with the labels, and put new scores on record.

    Raises:
        UnknownName: No such run, split or layer.
        BadInput: A label is of a class a run does not know.
        ZooError: No run is named, one is named twice or knows other classes than the first, or no clip of the
            split has a usable label.
    """
    if not names:
        raise ZooError("a report needs runs", "name one or more: mer-zoo report RUN …")
    if len(set(names)) < len(names):
        raise ZooError("a run is named twice", "name each run once")
    runs = [find_run(store, name) for name in names]
    for run in runs:
        if set(run.config.classes) != set(runs[0].config.classes):
            raise ZooError(
                f"{run.name} knows other classes than {runs[0].name}",
                "report runs that were trained on the same classes",
            )
    layer = labels or default_layer(store)
    truth, commit = human_labels(store, layer, split), store.commit
    commands = {entry.path: commit.command for commit in store.log() for entry in commit.add}
    judged = [_judge(store, run, truth, commands) for run in runs]
    views = tuple(view for view, _ in judged)
    for run, view in zip(runs, views, strict=True):
        _on_record(store, run, split, layer, view.scores, command)
    best = max(range(len(views)), key=lambda i: views[i].scores.waf)
    return Report(
        title=title,
        note=note,
        store=store.url,
        commit=commit,
        split=split,
        labels=layer,
        classes=views[0].scores.classes,
        runs=views,
        layers=_layers(store, runs, store.labels.resolve(layer)),
        mistakes=_mistakes(store, judged, best),
    )


def _judge(
    store: "Store", run: Run, truth: Mapping[str, str], commands: Mapping[str, str]
) -> tuple[RunView, tuple[str, ...]]:
    """Return a run's view and the keys its rows are of."""
    predicted = predict(store, run, keys=list(truth))
    label = class_indices(truth, predicted.keys, predicted.classes, run.name)
    probs = predicted.probs.astype(np.float64)
    scores = score(label, probs, predicted.classes)
    view = RunView(
        name=run.name,
        model=run.config.model,
        modalities=tuple(run.config.inputs.chosen),
        layer=run.config.labels,
        human=len(run.config.folds),
        pseudo=len(run.config.pseudo),
        scores=scores,
        interval=scores.intervals["waf"],
        label=label,
        probs=probs,
        curves=tuple(np.array([e["waf"] for e in fold["epochs"]]) for fold in run.history),
        command=commands.get(run.bundle.entry.path, ""),
    )
    return view, predicted.keys


def _on_record(store: "Store", run: Run, split: str, layer: str, scores: Scores, command: str) -> None:
    """Put a score on record, as `evaluate` does, unless it is already."""
    facts = {"split": split, "labels": layer, "n": scores.n, "waf": scores.waf}
    known = ({name: b.attrs[name] for name in facts} for b in list_evaluations(store, run.name))
    if not store.read_only and facts not in known:
        put_on_record(store, run, split, layer, scores, command=command)


def _layers(store: "Store", runs: Sequence[Run], truth: "Resolved") -> tuple[LayerView, ...]:
    """The layers the runs were trained on, and what these stand on, oldest first."""
    wanted: list[str] = []
    queue = [run.config.labels for run in runs]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.append(name)
            queue += [
                p.removeprefix("labels/") for p in store.labels[name].parents if p.startswith("labels/")
            ]
    age = {e.name: store.snapshot.placed(e.path).commit for e in store.snapshot.entries("labels")}
    return tuple(layer_view(store, name, truth) for name in sorted(wanted, key=lambda n: (age[n], n)))


def layer_view(store: "Store", name: str, truth: "Resolved") -> LayerView:
    """Count a layer's labels, and compare its pseudo-labels with people's where `truth` has them."""
    resolved, own = store.labels.resolve(name), store.labels[name]

    def counts(source: int) -> dict[str, int]:
        found = Counter(int(i) for i in resolved.label[resolved.source == source])
        return {c: found[i] for i, c in enumerate(resolved.classes)}

    known = {k: truth[k] for k, source in zip(truth.keys, truth.source, strict=True) if source == HUMAN}
    guessed = [k for k, source in zip(resolved.keys, resolved.source, strict=True) if source == PSEUDO]
    right = [resolved[k] == known[k] for k in guessed if k in known]
    return LayerView(
        name=name,
        human=counts(HUMAN),
        pseudo=counts(PSEUDO),
        dropped=int((~own.kept).sum()),
        precision=sum(right) / len(right) if right else None,
        checked=len(right),
    )


def _mistakes(
    store: "Store", judged: Sequence[tuple[RunView, tuple[str, ...]]], best: int
) -> tuple[Mistake, ...]:
    """The clips the best run got wrong while it was most sure, and who else said the same."""
    run, keys = judged[best]
    classes = run.scores.classes
    guess, sure = run.probs.argmax(1), run.probs.max(1)
    wrong = np.flatnonzero(guess != run.label)
    said = [
        (view.name, dict(zip(others, (view.scores.classes[g] for g in view.probs.argmax(1)), strict=True)))
        for i, (view, others) in enumerate(judged)
        if i != best
    ]
    return tuple(
        Mistake(
            key=keys[row],
            label=classes[run.label[row]],
            said=classes[guess[row]],
            confidence=float(sure[row]),
            text=store.clips[keys[row]].text or "",
            also=tuple(name for name, theirs in said if theirs.get(keys[row]) == classes[guess[row]]),
        )
        for row in sorted(wrong, key=lambda r: -sure[r])[:MISTAKES]
    )
