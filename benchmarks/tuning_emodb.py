"""Is a tuned encoder worth it? LoRA in Whisper-tiny on EmoDB, judged on speakers nobody has heard.

Needs the media and weights that may lie beside the checkout (`../shared`); writes the table of
docs/tuning.md. Every trial has a store of its own, in which two speakers are `test`, and does what
`mer-zoo tune` and `mer-fs extract` do. Trials that are done lie in `--dir` as small files, and are not done
again.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, load_file, save_file

from benchmarks.composite import SHARED
from benchmarks.self_training import MEN, WOMEN, divide
from mer_featurestore import Clip, LabelLayer, Store
from mer_plugins.contract import Options
from mer_plugins.pipeline import Request, extract, plan
from mer_zoo.bootstrap import Interval, percentile, resample, scores_of
from mer_zoo.tuning.settings import TuneRequest, TuneSettings
from mer_zoo.tuning.tune import tune

PAGE = Path(__file__).parents[1] / "docs" / "tuning.md"
BEGIN, END = "<!-- tuning_emodb: begin -->", "<!-- tuning_emodb: end -->"
SEEDS, DIVISIONS = 3, 2
LAYERS, ROWS, C = "2-3", "3", 0.01
SETTINGS = TuneSettings(epochs=3, lr=1e-3, head_lr=1e-3, label_smoothing=0.1)
FROZEN, PROBED, HEAD = "frozen, probe", "tuned, probe", "tuned, own head"
WEIGHTED, TUNED_WEIGHTED = "frozen, weighted probe", "tuned, weighted probe"
AGAINST = {PROBED: FROZEN, WEIGHTED: FROZEN, TUNED_WEIGHTED: WEIGHTED, HEAD: WEIGHTED}
SPEAKERS = sorted((*MEN, *WOMEN))
Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Corpus:
    """EmoDB: its clips, class names, and labels by key."""

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    label: Mapping[str, str]

    def index(self, keys: list[str]) -> NDArray[np.int64]:
        """Return the labels of clips as numbers."""
        return np.array([self.classes.index(self.label[key]) for key in keys], np.int64)


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Do the trials that are not in `folder` yet, and write the table (not with `quick`)."""
    if not (SHARED / "data").is_dir():
        print("needs the media and weights beside the checkout (../shared), which are not in the repository")
        return
    corpus = read_corpus()
    with tempfile.TemporaryDirectory(prefix="mer-tuning-") as name:
        place = (folder or Path(name)) / "tuning"
        place.mkdir(parents=True, exist_ok=True)
        frozen = _frozen(place, corpus)
        found = []
        for number in range(1 if quick else DIVISIONS):
            for seed in range(1 if quick else SEEDS):
                found.append(_trial(place, corpus, frozen, seed, number, quick=quick))
                print(f"  seed {seed}, division {number}: {_brief(found[-1])}", flush=True)
    table = render(found)
    print(table)
    if not quick:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", "utf-8")


def read_corpus() -> Corpus:
    """Read the catalogue and the labels."""
    from mer_featurestore.catalogue import read_catalogue

    found = read_catalogue(SHARED / "data" / "emodb" / "labels.csv")
    label = dict(found.labels)
    return Corpus(tuple(found.clips), tuple(sorted(set(label.values()))), label)


def _options() -> Options:
    model = str(SHARED / "models" / "whisper-tiny-en")
    return Options(model=model, layers=ROWS, device="cpu", extra={"context": "2"})


def _store(folder: Path, corpus: Corpus, test: tuple[str, ...]) -> Store:
    """Make a store in which the clips of some speakers are `test`, and the others labelled."""
    store = Store.create(folder)
    store.clips.add(replace(c, split="test" if c.speaker in test else "train") for c in corpus.clips)
    known = {c.key: corpus.label[c.key] for c in corpus.clips if c.speaker not in test}
    store.labels.add(LabelLayer.human("gold", corpus.classes, known))
    return store


def _vectors(store: Store, adapter: str = "") -> Vectors:
    """Extract all clips with an adapter, and return the vectors by key."""
    planned = plan(store, Request(plugin="whisper", adapter=adapter, name=adapter, options=_options()))
    extract(store, planned)
    space = store.features[planned.spaces[0]]
    keys = list(space.keys())
    return dict(zip(keys, space.matrix(keys).astype(np.float32), strict=True))


def _frozen(place: Path, corpus: Corpus) -> Vectors:
    folder = place / "frozen"
    return _vectors(Store.open(folder) if folder.exists() else _store(folder, corpus, ()))


def _trial(
    place: Path, corpus: Corpus, frozen: Vectors, seed: int, number: int, *, quick: bool
) -> dict[str, Any]:
    """Tune on eight speakers, judge on two; return counts `[C, C]` by line and speaker, and what it took."""
    file = place / f"{'quick-' * quick}{seed}-{number}.json"
    kept = file.with_suffix(".safetensors")
    test = divide(seed)[number].test
    if not kept.exists():
        _tune(place, corpus, test, file, replace(SETTINGS, epochs=1) if quick else SETTINGS, seed)
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    tensors = load_file(kept)
    tuned = {clip.key: row for clip, row in zip(corpus.clips, tensors["vectors"], strict=True)}
    found["counts"] = {
        FROZEN: _probe(corpus, frozen, test),
        PROBED: _probe(corpus, tuned, test),
        HEAD: _head(corpus, tensors, tuned, test),
        WEIGHTED: _probe(corpus, frozen, test, "balanced"),
        TUNED_WEIGHTED: _probe(corpus, tuned, test, "balanced"),
    }
    return found


def _tune(
    place: Path, corpus: Corpus, test: tuple[str, ...], file: Path, settings: TuneSettings, seed: int
) -> None:
    """Tune on the speakers that are not in `test`; keep all clips' vectors and the head, and what it took."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mer-trial-", dir=place) as name:
        store = _store(Path(name) / "store", corpus, test)
        request = TuneRequest(
            plugin="whisper", name="one", layers=LAYERS, options=_options(), seed=seed, settings=settings
        )
        one = tune(store, request, work=Path(name) / "one")
        vectors = _vectors(store, "one")
        head = load(store.adapters["one"].read("head.safetensors"))
    facts = {
        "trainable": one.trainable,
        "total": one.total,
        "best_epoch": one.parts[0].best_epoch,
        "seconds": time.perf_counter() - began,
    }
    file.write_text(json.dumps(facts), "utf-8")
    rows = np.stack([vectors[clip.key] for clip in corpus.clips])
    save_file({"vectors": rows, **head}, file.with_suffix(".safetensors"))


def _probe(
    corpus: Corpus, vectors: Vectors, test: tuple[str, ...], weights: str | None = None
) -> dict[str, NDArray[np.int64]]:
    """Train a logistic regression on the speakers that are not in `test`; count its decisions on these."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    keys = [clip.key for clip in corpus.clips if clip.speaker not in test]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000, class_weight=weights))
    model.fit(np.stack([vectors[key] for key in keys]), corpus.index(keys))
    return _counts(corpus, test, lambda ks: model.predict(np.stack([vectors[key] for key in ks])))


def _head(corpus: Corpus, head: Vectors, vectors: Vectors, test: tuple[str, ...]) -> dict[str, Any]:
    """Count the decisions of the head the adapter was trained with."""

    def said(keys: list[str]) -> NDArray[np.int64]:
        x = np.stack([vectors[key] for key in keys]).astype(np.float64)
        logits = (x - head["mean"]) / head["scale"] @ head["out.weight"].T + head["out.bias"]
        return np.asarray(logits.argmax(1), np.int64)

    return _counts(corpus, test, said)


def _counts(corpus: Corpus, test: tuple[str, ...], decide: Any) -> dict[str, NDArray[np.int64]]:
    classes, found = len(corpus.classes), {}
    for speaker in test:
        keys = [clip.key for clip in corpus.clips if clip.speaker == speaker]
        cells = corpus.index(keys) * classes + decide(keys)
        found[speaker] = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return found


def _brief(trial: Mapping[str, Any]) -> str:
    uar = {line: _of(trial, line) for line in trial["counts"]}
    return ", ".join(f"{line} {value:.3f}" for line, value in uar.items()) + f" ({trial['seconds']:.0f} s)"


def _uar(counts: Any) -> float:
    return float(scores_of(np.asarray(counts))["uar"])


def _by_speaker(trials: list[dict[str, Any]], line: str) -> NDArray[np.int64]:
    """Return counts `[speakers, C, C]`, summed over the trials a speaker was held out in."""
    classes = len(next(iter(trials[0]["counts"][line].values())))
    total = np.zeros((len(SPEAKERS), classes, classes), np.int64)
    for trial in trials:
        for speaker, counts in trial["counts"][line].items():
            total[SPEAKERS.index(speaker)] += np.array(counts)
    return total


def render(trials: list[dict[str, Any]]) -> str:
    """Return the table: UAR over all held-out clips, and its difference from another line."""
    columns = (
        "features, classifier",
        "UAR",
        "95 %",
        "compared with",
        "difference",
        "95 %",
        "trials better / worse",
    )
    rows = [" | ".join(columns), " | ".join(["---"] * len(columns))]
    rows += [" | ".join(_row(line, trials)) for line in (FROZEN, PROBED, WEIGHTED, TUNED_WEIGHTED, HEAD)]
    return "\n".join([*(f"| {row} |" for row in rows), "", _facts(trials)])


def _row(line: str, trials: list[dict[str, Any]]) -> list[str]:
    """Return a line's cells; differences are on the same draws of speakers."""
    other = AGAINST.get(line, line)
    counts, base = _by_speaker(trials, line), _by_speaker(trials, other)
    heard = np.flatnonzero(base.sum((1, 2)))
    draws = resample(np.ones(len(heard), np.int64))

    def drawn(by: NDArray[np.int64]) -> NDArray[np.float64]:
        return scores_of(np.einsum("rs,sij->rij", draws, by[heard]))["uar"]

    uar = _uar(counts.sum(0))
    cells = [line, f"{uar:.3f}", _span(percentile(drawn(counts)))]
    if line == FROZEN:
        return [*cells, "", "", "", ""]
    gains = [_of(trial, line) - _of(trial, other) for trial in trials]
    return [
        *cells,
        other,
        f"{uar - _uar(base.sum(0)):+.3f}",
        _span(percentile(drawn(counts) - drawn(base)), sign="+"),
        f"{sum(g > 0 for g in gains)} / {sum(g < 0 for g in gains)}",
    ]


def _of(trial: Mapping[str, Any], line: str) -> float:
    return _uar(sum(np.array(c) for c in trial["counts"][line].values()))


def _span(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _facts(trials: list[dict[str, Any]]) -> str:
    first, seconds = trials[0], sum(trial["seconds"] for trial in trials)
    frozen = _by_speaker(trials, FROZEN).sum((1, 2))
    epochs = ", ".join(str(trial["best_epoch"]) for trial in trials)
    return (
        f"{len(trials)} trials, {frozen.sum()} decisions about clips of {(frozen > 0).sum()} held-out "
        f"speakers; {first['trainable']:,} of {first['total']:,} parameters trained; best epochs of the one "
        f"adapter, of {SETTINGS.epochs}: {epochs}; {seconds / 60:.0f} minutes on a busy core."
    )
