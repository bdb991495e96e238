"""Collects what a report shows from a store."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.label_layer import HUMAN, PSEUDO
from mer_zoo.errors import ZooError
from mer_zoo.metrics import score, weighted_f1
from mer_zoo.predict import predict
from mer_zoo.report.model import LayerView, Mistake, Report, RunView
from mer_zoo.runs import Run, find_run
from mer_zoo.trainset import default_layer

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.resolve import Resolved

MISTAKES = 8
_RESAMPLES, _SEED = 1000, 0


def gather(
    store: "Store", names: Sequence[str], split: str, labels: str | None, title: str, note: str
) -> Report:
    """Predict the split with every run and compare with the labels.

    Raises:
        UnknownName: No such run, split or layer.
        ZooError: No run is named, a run is named twice, or no clip of the split has a usable label.
    """
    if not names:
        raise ZooError("a report needs runs", "name one or more: mer-zoo report RUN …")
    if len(set(names)) < len(names):
        raise ZooError("a run is named twice", "name each run once")
    runs = [find_run(store, name) for name in names]
    layer = labels or default_layer(store)
    truth = _truth(store, split, store.labels.resolve(layer))
    commands = {entry.path: commit.command for commit in store.log() for entry in commit.add}
    judged = [_judge(store, run, truth, commands) for run in runs]
    views = tuple(view for view, _ in judged)
    best = max(range(len(views)), key=lambda i: views[i].scores.waf)
    return Report(
        title=title,
        note=note,
        store=store.url,
        commit=store.commit,
        split=split,
        labels=layer,
        classes=views[0].scores.classes,
        runs=views,
        layers=_layers(store, runs, store.labels.resolve(layer)),
        mistakes=_mistakes(store, judged, best),
    )


def _truth(store: "Store", split: str, resolved: "Resolved") -> dict[str, str]:
    """Return key -> class of the clips of the split that people labelled."""
    inside = {clip.key for clip in store.clips.select(split=split)}
    truth = {
        key: resolved.classes[label]
        for key, label, source in zip(resolved.keys, resolved.label, resolved.source, strict=True)
        if source == HUMAN and key in inside
    }
    if not truth:
        raise ZooError(
            f"no clip of split {split!r} has a human label in {resolved.name!r}",
            "choose another --split or --labels, or import labels: mer-fs labels import",
        )
    return truth


def _judge(
    store: "Store", run: Run, truth: Mapping[str, str], commands: Mapping[str, str]
) -> tuple[RunView, tuple[str, ...]]:
    """Return a run's view and the keys its rows are of."""
    predicted = predict(store, run, keys=list(truth))
    place = {name: i for i, name in enumerate(predicted.classes)}
    unknown = sorted({truth[key] for key in predicted.keys} - set(place))
    if unknown:
        raise ZooError(
            f"clips are labelled {unknown[0]!r}, a class run {run.name!r} does not know",
            "choose other --labels; it knows: " + ", ".join(predicted.classes),
        )
    label = np.array([place[truth[key]] for key in predicted.keys], np.int64)
    probs = predicted.probs.astype(np.float64)
    view = RunView(
        name=run.name,
        model=run.config.model,
        modalities=tuple(run.config.inputs.chosen),
        layer=run.config.labels,
        human=len(run.config.folds),
        pseudo=len(run.config.pseudo),
        scores=score(label, probs, predicted.classes),
        interval=waf_interval(label, probs.argmax(1), len(predicted.classes)),
        label=label,
        probs=probs,
        curves=tuple(np.array([e["waf"] for e in fold["epochs"]]) for fold in run.history),
        command=commands.get(run.bundle.entry.path, ""),
    )
    return view, predicted.keys


def waf_interval(label: NDArray[np.int64], guess: NDArray[np.int64], classes: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of WAF over clips (1000 resamples, seeded)."""
    rng = np.random.default_rng(_SEED)
    pairs = label * classes + guess
    drawn = pairs[rng.integers(0, len(pairs), (_RESAMPLES, len(pairs)))]
    drawn += np.arange(_RESAMPLES)[:, None] * classes**2
    counts = np.bincount(drawn.ravel(), minlength=_RESAMPLES * classes**2)
    low, high = np.percentile(weighted_f1(counts.reshape(_RESAMPLES, classes, classes)), (2.5, 97.5))
    return float(low), float(high)


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
