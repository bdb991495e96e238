"""Time to quality: a search of 50 trials against the field's recipe of 50 draws, 5 folds and 100 epochs each.

The search is run as it is typed: `mer-zoo search attention --trials 50 --prune --patience 5`. The recipe
would take hours, so that its time is extrapolated from measured epochs of the usual way (`benchmarks.plain`),
one of each width it draws; and its quality is that of the search's best setting trained the usual way, for a
few epochs more than the search's best ones.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import plain
from benchmarks.corpora import CLASSES, make_store
from benchmarks.measure import Results
from mer_zoo.planning import make_plan
from mer_zoo.search import SearchResult, search
from mer_zoo.settings import Settings

TRIALS, FOLDS, EPOCHS, PATIENCE = 50, 5, 100, 5
WIDTHS = (64, 128, 256)  # that the search draws from, each as often
_MORE = 5  # epochs beyond the search's latest best one

Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Search, extrapolate the recipe, and print a table."""
    results = Results()
    count, trials, epochs = (503, 6, 9) if quick else (5030, TRIALS, EPOCHS)
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name:
        store, features, label = make_store(Path(name) / "store", count)
        clips = plain.Clips({key: x[:, 0] for key, x in features.items()}, label)
        members = make_plan(store, "attention", folds=FOLDS).members()
        folds = [(member.train.numpy(), member.valid.numpy()) for member in members]
        each = [plain.train(clips, folds[:1], hidden=h, dropout=0.3, epochs=1).seconds for h in WIDTHS]
        recipe = float(np.mean(each)) * trials * FOLDS * epochs
        results.add(f"recipe, extrapolated from {len(WIDTHS)} epochs", "", recipe, unit="s")
        settings = Settings(epochs=epochs, patience=PATIENCE)
        found = search(store, "attention", trials=trials, prune=True, settings=settings)
        results.add(f"search of {trials} trials", "", found.seconds, unit="s")
        results.add("times the recipe", "", recipe / found.seconds, (">=", 12))
        results.add(f"epochs of members trained, of {trials * FOLDS * epochs}", "", found.epochs)
        _quality(results, found, clips, folds, epochs)
    results.show("Search" + (" (quick: sizes too small to judge)" if quick else ""))


def _quality(results: Results, found: SearchResult, clips: plain.Clips, folds: Folds, most: int) -> None:
    """WAF of both over all clips, each predicted by the fold that held it out, with 95 % intervals."""
    from mer_zoo.bootstrap import intervals, weighted_f1

    draw, epochs = found.best.draw, min(most, max(found.run.best_epochs) + _MORE)
    usual = plain.train(
        clips,
        folds,
        hidden=int(draw["hidden"]),
        dropout=float(draw["dropout"]),
        epochs=epochs,
        rate=float(draw["lr"]),
    )
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(confusion, (clips.label, usual.predicted), 1)
    theirs, ours = intervals(confusion)["waf"], found.run.scores.intervals["waf"]
    print(f"    best setting {dict(draw)}; 95 % intervals: search {ours}, the usual way {theirs}", flush=True)
    results.add("WAF out of fold, search", "", 100 * found.run.scores.waf, (">=", 100 * theirs.low), "%")
    waf = float(weighted_f1(confusion))
    results.add(f"WAF of that setting the usual way, {epochs} epochs", "", 100 * waf, unit="%")
