"""Comparing two runs on the clips both predict: a paired bootstrap, and McNemar's exact test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.bootstrap import SEED, Interval, confusions, percentile, resample, scores_of
from mer_zoo.errors import ZooError
from mer_zoo.guards import flattered
from mer_zoo.runs import COMPARISON, OUT_OF_FOLD, Predictions, Run, dump, find_run
from mer_zoo.settings import check_seed
from mer_zoo.trainset import TEST, default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store

RESAMPLES = 5000
OUT_OF_FOLDS = "out-of-fold"


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of two runs on the same clips.

    Attributes:
        a: Of the first run.
        b: Of the second.
        interval: 95 % paired bootstrap interval of `b - a`.
        p: Twice the share of resamples in which the difference has the other sign, or is nothing.
    """

    a: float
    b: float
    interval: Interval
    p: float

    @property
    def value(self) -> float:
        """How much higher the second run scores, `b - a`."""
        return self.b - self.a

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.value,
            "interval": list(self.interval),
            "p": self.p,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs on the clips both predict.

    Attributes:
        a: The first run.
        b: The second.
        on: A split, or `out-of-fold`.
        labels: Layer whose human labels they are judged by.
        n: Clips compared.
        left_out: Labelled clips that only one of them, or neither, predicts.
        scores: Of `waf`, `uar`, `accuracy` and `macro_f1`.
        table: Clips that `both`, only `a`, only `b`, and `neither` got right.
        mcnemar: p-value of McNemar's exact test on the clips that only one got right.
        record: Name of the record in the store; empty when compared out of fold.
        notices: What a person should know.
    """

    a: str
    b: str
    on: str
    labels: str
    n: int
    left_out: int
    scores: Mapping[str, Difference]
    table: Mapping[str, int]
    mcnemar: float
    record: str = ""
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        plain = {name: getattr(self, name) for name in ("a", "b", "on", "labels", "n", "left_out")}
        return {
            **plain,
            "scores": {name: found.to_json() for name, found in self.scores.items()},
            "table": dict(self.table),
            "mcnemar": self.mcnemar,
            "record": self.record,
            "notices": list(self.notices),
        }


def compare(
    store: "Store",
    a: Run | str,
    b: Run | str,
    *,
    split: str | None = None,
    labels: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    device: str = "auto",
    command: str = "",
) -> Comparison:
    """Compare two runs by human labels, clip by clip.

    Without `split`, their out-of-fold predictions are compared. With it both predict the split, and the
    comparison is put on record in the journal, as an evaluation is.

    Args:
        store: The store; with `split` it moves to the commit that records the comparison.
        a: The first run, or its name.
        b: The second.
        split: Whose clips; None compares the out-of-fold predictions.
        labels: Label layer; None takes the first run's, with `split` `gold` or the only one.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split, layer or space.
        FingerprintMismatch: The store's features were made otherwise than those a run was trained on.
        BadInput: A label is of a class a run does not know.
        ZooError: The runs are the same, know different classes, or share no labelled clip.
    """
    check_seed(seed)
    if resamples < 1:
        raise ZooError(f"{resamples} resamples are no bootstrap", "use 1 or more")
    first, second = (find_run(store, run) if isinstance(run, str) else run for run in (a, b))
    _check_pair(first, second)
    layer = labels or (first.config.labels if split is None else default_layer(store))
    truth = human_labels(store, layer, split)
    if split is None:
        said_a, said_b = (_out_of_fold(store, run, truth) for run in (first, second))
        asked = len(said_a | said_b)
    else:
        said_a, said_b = (_predicted(store, run, truth, device) for run in (first, second))
        asked = len(truth)
    keys = [key for key in said_a if key in said_b]
    if not keys:
        raise ZooError(
            f"{first.name} and {second.name} share no clip with a human label in {layer!r} "
            + ("out of fold" if split is None else f"on {split!r}"),
            "compare them on a split that both can predict: --split test",
        )
    classes = first.config.classes
    label = class_indices(truth, keys, classes, first.name)
    guess_a, guess_b = (_guesses(said, keys, classes) for said in (said_a, said_b))
    found = Comparison(
        a=first.name,
        b=second.name,
        on=split or OUT_OF_FOLDS,
        labels=layer,
        n=len(keys),
        left_out=asked - len(keys),
        scores=differences(label, guess_a, guess_b, len(classes), resamples=resamples, seed=seed),
        table=_table(guess_a == label, guess_b == label),
        mcnemar=mcnemar(guess_a == label, guess_b == label),
        notices=_notices(store, first, second, split, keys),
    )
    return found if split is None else _on_record(store, found, command)


def differences(
    label: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    classes: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Return the scores of two runs with paired bootstrap intervals of their difference.

    Args:
        label: int64 `[n]`, the truth.
        a: int64 `[n]`, what the first run said.
        b: int64 `[n]`, what the second said.
        classes: C.
        resamples: How often n clips are drawn with replacement; both runs are scored on the same draw.
        seed: Decides the draws.
    """
    cells, counts = np.unique((label * classes + a) * classes + b, return_counts=True)
    drawn = np.concatenate([counts[None], resample(counts, resamples, seed)])  # row 0: what was seen
    truth, pair = cells // classes**2, cells % classes**2
    of_a = scores_of(confusions(drawn, truth * classes + pair // classes, classes))
    of_b = scores_of(confusions(drawn, truth * classes + pair % classes, classes))
    return {name: _difference(of_a[name], of_b[name]) for name in ("waf", "uar", "accuracy", "macro_f1")}


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    draws = b[1:] - a[1:]
    other = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (float(other) + 1) / (len(draws) + 1))  # never nothing: the draws are finitely many
    return Difference(float(a[0]), float(b[0]), percentile(draws), p)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947; binomial form).

    Args:
        a: bool `[n]`, whether the first run got each clip right.
        b: bool `[n]`, whether the second did.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _check_pair(a: Run, b: Run) -> None:
    if a.name == b.name:
        raise ZooError(f"{a.name!r} is compared with itself", "name two runs")
    if set(a.config.classes) != set(b.config.classes):
        raise ZooError(
            f"{a.name} knows the classes {', '.join(a.config.classes)}, and {b.name} "
            + ", ".join(b.config.classes),
            "compare runs that were trained on the same classes",
        )


def _out_of_fold(store: "Store", run: Run, truth: Mapping[str, str]) -> dict[str, str]:
    """Return key -> class said by the fold that had not seen the clip; never of test clips."""
    stored = run.predictions
    return {
        key: said
        for key, said, origin in zip(stored.keys, stored.labels, stored.origin, strict=True)
        if origin == OUT_OF_FOLD and key in truth and _is_open(store, key)
    }


def _is_open(store: "Store", key: str) -> bool:
    clip = store.clips.get(key)
    return clip is None or clip.split != TEST  # a training clip may have been moved to the test split since


def _predicted(store: "Store", run: Run, truth: Mapping[str, str], device: str) -> dict[str, str]:
    from mer_zoo.predict import predict

    found: Predictions = predict(store, run, keys=list(truth), device=device)
    return dict(zip(found.keys, found.labels, strict=True))


def _guesses(said: Mapping[str, str], keys: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[said[key]] for key in keys], np.int64)


def _table(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, int]:
    cells = {"both": a & b, "a": a & ~b, "b": ~a & b, "neither": ~(a | b)}
    return {name: int(cell.sum()) for name, cell in cells.items()}


def _notices(store: "Store", a: Run, b: Run, split: str | None, keys: Sequence[str]) -> tuple[str, ...]:
    found = []
    if split is None and any(a.config.folds[key] != b.config.folds[key] for key in keys):
        found.append(
            f"{a.name} and {b.name} have different folds: a clip's two predictions come from models that "
            "learned from different clips"
        )
    for run in (a, b) if split is not None else ():
        found += flattered(store, run, keys)
    return tuple(dict.fromkeys(found))  # both may read the same features


def _on_record(store: "Store", found: Comparison, command: str) -> Comparison:
    waf = found.scores["waf"]
    facts = {"type": COMPARISON, "runs": [found.a, found.b], "split": found.on, "labels": found.labels}
    bundle = store.runs.add_numbered(
        "comparison",
        {"comparison.json": dump({**facts, **found.to_json()})},
        parents=(f"runs/{found.a}", f"runs/{found.b}", f"labels/{found.labels}"),
        attrs={**facts, "n": found.n, "waf": [waf.a, waf.b], "mcnemar": found.mcnemar},
        command=command,
        message=f"compare {found.a} with {found.b} on {found.on}: WAF {waf.a:.4f} and {waf.b:.4f}",
    )
    return replace(found, record=bundle.name)
