"""Confident learning: which given labels do the predictions doubt?

Our own few lines of the method of Northcutt, Jiang and Chuang (2021, arXiv 1911.00068), on out-of-fold
probabilities.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_confidence(probs: ArrayLike, label: ArrayLike) -> NDArray[np.float64]:
    """Return each class's mean probability on clips labelled with it, `[C]`; infinite where there are none.

    Args:
        probs: float `[n, C]`, of clips the model had not learned.
        label: int `[n]`.
    """
    p, y = np.asarray(probs, np.float64), np.asarray(label, np.int64)
    count = np.bincount(y, minlength=p.shape[1])
    total = np.bincount(y, p[np.arange(len(y)), y], p.shape[1])
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def doubts(probs: ArrayLike, label: ArrayLike) -> NDArray[np.int64]:
    """Return what each clip is confidently taken for, int64 `[n]`; -1 where nothing reaches its bar.

    A label is doubted where this is another class (an off-diagonal cell of the confident joint).
    """
    p = np.asarray(probs, np.float64)
    reaches = p >= class_confidence(p, label)
    best = np.where(reaches, p, -1.0).argmax(1)
    return np.where(reaches.any(1), best, -1).astype(np.int64)
