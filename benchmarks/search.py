"""Time to quality: a search of 50 trials against the field's recipe of 50 draws, 5 folds and 100 epochs each.

The search is run as it is typed, with pruning and early stopping. The recipe would take hours, so that its
time is extrapolated from measured epochs of the usual way (`benchmarks.plain`), and its quality is that of
the search's best setting trained the usual way for as many epochs as the search's best epochs ask for.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import plain
from benchmarks.corpora import make_store
from benchmarks.measure import Results
from mer_zoo.planning import make_plan
from mer_zoo.settings import Settings

TRIALS, FOLDS, EPOCHS = 50, 5, 100
_MORE = 5  # epochs beyond the search's latest best one


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Search, extrapolate the recipe, and print a table."""
    from mer_zoo.search import search

    results, clips_count = Results(), 503 if quick else 5030
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name:
        store, features, label = make_store(Path(name) / "store", clips_count)
        clips = plain.Clips({key: x[:, 0] for key, x in features.items()}, label)
        found = search(store, "attention", trials=TRIALS, prune=True, settings=Settings(epochs=EPOCHS))
        plan = make_plan(store, "attention", folds=FOLDS)
        folds = [(member.train.numpy(), member.valid.numpy()) for member in plan.members()]
        each = [
            plain.train(clips, folds[:1], hidden=hidden, dropout=0.3, epochs=1).seconds
            for hidden in (64, 128, 256)
        ]
        params = {**plan.config.params, **found.best.draw}
        epochs = min(EPOCHS, max(found.run.best_epochs) + _MORE)
        usual = plain.train(
            clips,
            folds,
            hidden=int(params["hidden"]),
            dropout=float(params["dropout"]),
            epochs=epochs,
            rate=float(params.get("lr", 1e-3)),
        )
    recipe = float(np.mean(each)) * TRIALS * FOLDS * EPOCHS
    results.add("search of 50 trials", "", found.seconds, unit="s")
    results.add("recipe, extrapolated from 3 epochs", "", recipe, unit="s")
    results.add("times the recipe", "", recipe / found.seconds, (">=", 12))
    results.add("epochs of members trained, of 25,000", "", found.epochs)
    results.add("best mean WAF of the folds, search", "", 100 * found.best.mean(), unit="%")
    results.add(f"the same setting the usual way, {epochs} epochs", "", 100 * usual.waf, unit="%")
    results.show("Search" + (" (quick: sizes too small to judge)" if quick else ""))
