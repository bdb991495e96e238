"""Every model on real features of real media: shows that the whole path works, and writes docs/results.md.

Needs the media and weights that may lie beside the checkout (`../shared`). Given the class, the modalities of
the composite corpus are independent by construction: its scores are no evidence about any method.
"""

import csv
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mer_featurestore import LabelLayer, Store
from mer_zoo.bootstrap import Interval, intervals, scores_of
from mer_zoo.contract import ModelCard
from mer_zoo.settings import Settings

ROOT = Path(__file__).parents[1]
SHARED, PAGE = ROOT.parent / "shared", ROOT / "docs" / "results.md"
AUDIO, VIDEO, TEXT = "whisper-UTT", "face-expression-UTT", "hf-text-UTT"
ENCODERS: tuple[tuple[str, str, str | None, dict[str, str]], ...] = (
    ("whisper", "whisper-tiny-en", "2", {}),
    ("hf-text", "all-minilm-l6-v2", "last", {}),
    ("face-expression", "face-expression", None, {"face": "center"}),
)
SMALLER = {"tfn": {"hidden": 16}}  # what takes minutes otherwise
REFERENCE = 0.865  # UAR of scikit-learn's logistic regression, C = 0.01, on the same features of EmoDB


HEAD = """# Results on real media

Written by `python -m benchmarks composite --dir FOLDER`; needs the media and weights beside the checkout.

**A check of the pipeline, not evidence about any method.** Voice, face and sentence of a clip of the
composite corpus come from three different people and share nothing but the class: the modalities are
independent given the class, by construction. Never quote these scores as results of a method.

Encoders: Whisper tiny.en (layer 2), MiniLM, a small face-expression net. Every model has its default
parameters and trains on 174 clips of four speakers: four folds by speaker, at most 100 epochs, the epoch
chosen by validation WAF, seed 0. Each is scored once on the test split (other speakers, faces and
sentences) by the mean of the folds' probabilities. Intervals are 95 % bootstraps over clips; one clip is
worth 0.01. `tfn` has 16 hidden units instead of 64, whose outer product has 275,000 values."""

HEARD = f"""535 clips of ten speakers, 7 classes, Whisper tiny.en (layer 2), mean over time. Each speaker is
predicted by the mean of nine folds that were trained, and their epochs chosen, on the nine other speakers;
predictions are pooled. This copy of EmoDB is cut to 2 s and not comparable with published numbers. The
reference is scikit-learn's logistic regression (C = 0.01) on such features, UAR {REFERENCE:.3f}; `logreg` has
the same penalty here (`--weight-decay 0.2083 --param normalize=false`)."""

_PULLS = (
    "ties the modalities to each other by extra losses, whatever each is worth; text is worth little here"
)
REASONS = {
    "misa": _PULLS,
    "mmim": _PULLS,
    "mctn": "predicts from one modality, which is the method: text by default, else video; the others only "
    "help to train it (`--param source=audio` would read the voice)",
}


@dataclass(frozen=True)
class Row:
    """How one model did on clips that it and its folds had never seen.

    Attributes:
        model: Its name.
        given: What it was given.
        confusion: int `[C, C]`, rows = label.
    """

    model: str
    given: str
    confusion: np.ndarray[Any, Any]

    @property
    def scores(self) -> dict[str, float]:
        """Return `waf`, `uar` and others."""
        return {name: float(value) for name, value in scores_of(self.confusion).items()}

    @property
    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval of each, over clips."""
        return intervals(self.confusion)


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Extract what is not in `folder` yet, train everything, and write the page (not with `quick`)."""
    if not (SHARED / "data").is_dir():
        print("needs the media and weights beside the checkout (../shared), which are not in the repository")
        return
    place = nullcontext(str(folder)) if folder else tempfile.TemporaryDirectory(prefix="mer-composite-")
    with place as name:
        began = time.perf_counter()
        settings = Settings(epochs=3) if quick else Settings()
        store = composite(Path(name))
        probes = [_trained(store, "mlp", [space], settings) for space in (AUDIO, VIDEO, TEXT)]
        probes += [_trained(store, "logreg", [space], settings) for space in (AUDIO, VIDEO, TEXT)]
        fused = [
            _trained(store, card.name, spaces, settings)
            for spaces in ([AUDIO, VIDEO, TEXT], [AUDIO, VIDEO])
            for card in _models()
        ]
        heard = [] if quick else leave_speakers_out(Path(name))
        page = render(probes, fused, heard)
        print(page)
        print(f"took {time.perf_counter() - began:.0f} s")
        if not quick:
            PAGE.write_text(page, encoding="utf-8")


def composite(folder: Path) -> Store:
    """Return the store of the composite corpus below a folder, made when it is not there.

    Labels of the split `unlabeled` are left out.
    """
    data = SHARED / "data" / "composite"
    store = _extracted(folder / "composite", data / "clips.csv", ENCODERS)
    if "gold" not in store.labels:
        known = {key: label for key, label in _labels(data) if store.clips[key].split != "unlabeled"}
        store.labels.add(LabelLayer.human("gold", tuple(sorted(set(known.values()))), known))
    return store


def emodb(folder: Path) -> Store:
    """Return the store of EmoDB below a folder, all of it labelled, made when it is not there."""
    data = SHARED / "data" / "emodb"
    store = _extracted(folder / "emodb", data / "labels.csv", ENCODERS[:1])
    if "gold" not in store.labels:
        labels = dict(_labels(data))
        store.labels.add(LabelLayer.human("gold", tuple(sorted(set(labels.values()))), labels))
    return store


def leave_speakers_out(folder: Path) -> list[Row]:
    """Return rows of EmoDB: each of ten speakers predicted by models trained on the nine others.

    The speaker is of split `test`, the others of split `train`, divided into nine folds by speaker, so that
    no epoch is chosen by what is scored.
    """
    store = emodb(folder)
    # C of scikit-learn is a weight decay of 1 / (C · clips) here.
    ridge = Settings(weight_decay=1 / (0.01 * 480))
    return [
        _speakers(store, "logreg", ridge, {"normalize": False}),
        _speakers(store, "mlp", Settings(), {}),
    ]


def _extracted(folder: Path, catalogue: Path, encoders: Iterable[tuple[Any, ...]]) -> Store:
    """Open or make a store, and extract what it lacks."""
    from mer_featurestore.catalogue import read_catalogue
    from mer_plugins.contract import Options
    from mer_plugins.pipeline import Request, extract, plan

    store = Store.open(folder) if folder.exists() else Store.create(folder)
    if not len(store.clips):
        store.clips.add(read_catalogue(catalogue).clips)
    for plugin, model, layers, extra in encoders:
        options = Options(model=str(SHARED / "models" / model), layers=layers, device="cpu", extra=extra)
        report = extract(store, plan(store, Request(plugin=plugin, options=options, levels=("utt",))))
        print(f"  {folder.name}, {plugin}: {report.done} clips extracted", flush=True)
    return store


def _labels(folder: Path) -> list[tuple[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return [(row["key"], row["emotion"]) for row in csv.DictReader(file)]


def _models() -> list[ModelCard]:
    """Return the cards of the models that fuse."""
    from mer_zoo.registry import models

    return [card for card in models().values() if card.modalities[1] > 1]


def _trained(store: Store, model: str, spaces: list[str], settings: Settings) -> Row:
    """Train a model on `train` and score it on `test`."""
    from mer_zoo.evaluate import evaluate
    from mer_zoo.train import train

    params = SMALLER.get(model, {})
    result = train(store, model, features=spaces, labels="gold", settings=settings, params=params)
    given = " + ".join(space.removesuffix("-UTT") for space in spaces)
    found = Row(model, given, np.array(evaluate(store, result.name).confusion))
    print(f"  {model} on {given}: {found.scores['waf']:.3f}, {result.seconds:.1f} s", flush=True)
    return found


def _speakers(store: Store, model: str, settings: Settings, params: Mapping[str, Any]) -> Row:
    from mer_zoo.evaluate import evaluate
    from mer_zoo.train import train

    total = np.zeros((0, 0), np.int64)
    clips = list(store.clips.values())
    for speaker in sorted({clip.speaker for clip in clips}):
        moved = [replace(clip, split="test" if clip.speaker == speaker else "train") for clip in clips]
        store.clips.add(moved, update=True, message=f"hold out speaker {speaker}")
        result = train(
            store, model, features=[AUDIO], labels="gold", folds=9, settings=settings, params=params
        )
        confusion = np.array(evaluate(store, result.name).confusion)
        total = confusion if not total.size else total + confusion
    found = Row(model, "whisper", total)
    print(f"  EmoDB, {model}: UAR {found.scores['uar']:.3f}", flush=True)
    return found


def render(probes: list[Row], fused: list[Row], heard: list[Row]) -> str:
    """Return the page."""
    best = max(probes, key=lambda row: row.scores["waf"])
    bar = best.scores["waf"]
    lines = [
        *HEAD.splitlines(),
        "",
        "## One modality",
        "",
        *_table(probes, None),
        "",
        f"Best unimodal probe: `{best.model}` on {best.given}, WAF {bar:.3f}.",
    ]
    for given in dict.fromkeys(row.given for row in fused):
        rows = sorted((r for r in fused if r.given == given), key=lambda r: -r.scores["waf"])
        lines += ["", f"## {given}", "", *_table(rows, bar), "", _verdict(rows, best)]
    if heard:
        lines += ["", *_heard(heard)]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Row], bar: float | None) -> list[str]:
    lines = ["| model | features | test WAF | | test UAR | | clips | above the best probe |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        above = "" if bar is None else "yes" if row.scores["waf"] > bar else "no"
        cells = [f"`{row.model}`", row.given]
        for name in ("waf", "uar"):
            edges = row.intervals[name]
            cells += [f"{row.scores[name]:.3f}", f"{edges.low:.3f} to {edges.high:.3f}"]
        cells += [str(int(row.confusion.sum())), above]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _verdict(rows: list[Row], best: Row) -> str:
    bar = best.scores["waf"]
    below = [row for row in rows if row.scores["waf"] <= bar]
    apart = [row for row in below if row.intervals["waf"].high < bar]
    told = f"{len(rows) - len(below)} of {len(rows)} models are above the best unimodal probe."
    if not below:
        return told
    names = ", ".join(f"`{row.model}`" for row in below)
    told += f" Not above it: {names}."
    inside = len(below) - len(apart)
    if inside:
        told += f" For {inside} of these its score lies within their interval: so few clips "
        told += "cannot tell them apart."
    if apart:
        told += " Worse beyond their interval: " + ", ".join(f"`{row.model}`" for row in apart) + "."
    for row in below:
        if row.model in REASONS:
            told += f" `{row.model}` {REASONS[row.model]}."
    return told


def _heard(rows: list[Row]) -> list[str]:
    lines = [
        "## EmoDB, one speaker left out",
        "",
        *HEARD.splitlines(),
        "",
        "| model | UAR | | WAF | | within 0.02 of the reference or better |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"`{row.model}`"]
        for name in ("uar", "waf"):
            edges = row.intervals[name]
            cells += [f"{row.scores[name]:.3f}", f"{edges.low:.3f} to {edges.high:.3f}"]
        cells.append("yes" if row.scores["uar"] >= REFERENCE - 0.02 else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
