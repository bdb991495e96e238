"""Scores of MER: WAF, accuracy, UAR, macro-F1, per class, confusion, calibration error."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mer_zoo.bootstrap import Interval, intervals, weighted_f1
from mer_zoo.bootstrap import to_json as intervals_to_json
from mer_zoo.errors import ZooError

__all__ = [
    "ECE_BINS",
    "ClassScore",
    "Scores",
    "expected_calibration_error",
    "mean_std",
    "score",
    "weighted_f1",
]

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Precision, recall and F1 of one class (0 where undefined), and its number of clips."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How predictions compare with labels.

    Attributes:
        n: Clips scored.
        waf: F1 per class, averaged with the classes' true shares (the MER challenges' ranking).
        accuracy: Share of clips predicted right.
        uar: Unweighted average recall, over the classes that occur in the labels.
        macro_f1: Unweighted average F1, over the classes that occur in the labels.
        ece: Expected calibration error of the top probability, 15 bins of equal width (Guo et al. 2017).
        per_class: By class name, every class of the list.
        confusion: `[C][C]` counts, rows = label, columns = prediction.
        classes: Class names in the order of `confusion`.
    """

    n: int
    waf: float
    accuracy: float
    uar: float
    macro_f1: float
    ece: float
    per_class: dict[str, ClassScore]
    confusion: list[list[int]]
    classes: tuple[str, ...]

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals over clips, of `waf`, `accuracy`, `uar` and `macro_f1`."""
        return intervals(np.array(self.confusion))

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON values, with their intervals."""
        found = intervals_to_json(self.intervals)
        return {**asdict(self), "classes": list(self.classes), "intervals": found}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Scores":
        """Undo `to_json`."""
        per_class = {name: ClassScore(**score) for name, score in document["per_class"].items()}
        plain = {name: document[name] for name in Scores.__dataclass_fields__}
        return cls(**{**plain, "per_class": per_class, "classes": tuple(document["classes"])})


def score(label: ArrayLike, probs: ArrayLike, classes: Sequence[str]) -> Scores:
    """Score probabilities against labels.

    Args:
        label: int `[n]`, index into `classes`.
        probs: float `[n, C]`, rows sum to one; the prediction is the first largest.
        classes: C names.

    Raises:
        ZooError: There is nothing to score.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    truth, p = np.asarray(label, np.int64), np.asarray(probs, np.float64)
    if not len(truth):
        raise ZooError("there are no labelled clips to score")
    guess, every = p.argmax(1), np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, guess, labels=every, zero_division=0
    )
    occurs = support > 0
    return Scores(
        n=len(truth),
        waf=float(np.average(f1, weights=support)),
        accuracy=float(accuracy_score(truth, guess)),
        uar=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        ece=expected_calibration_error(truth, p),
        per_class={
            name: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(classes)
        },
        confusion=confusion_matrix(truth, guess, labels=every).tolist(),
        classes=tuple(classes),
    )


def expected_calibration_error(
    label: NDArray[np.int64], probs: NDArray[np.float64], bins: int = ECE_BINS
) -> float:
    """Mean over clips of |accuracy - confidence| of their bin (Guo et al. 2017, arXiv 1706.04599)."""
    confidence, right = probs.max(1), probs.argmax(1) == label
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(which, right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(label))


def mean_std(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (n - 1; 0 for one) of each scalar score over folds or seeds."""
    found = {}
    for name in ("waf", "accuracy", "uar", "macro_f1", "ece"):
        values = np.array([getattr(s, name) for s in scores])
        found[name] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        }
    return found
