"""Estimating how often each class occurs among unlabelled clips, and predicting accordingly.

Both estimators assume *label shift*: classes are rarer or more frequent than in training, and within a class
the clips look alike. No label of the clips in question is read, and no score of theirs.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def em_prior(
    probs: ArrayLike,
    train: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    start: ArrayLike | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-7,
) -> NDArray[np.float64]:
    """Return the class shares that explain the predictions best (EM of Saerens, Latinne, Decaestecker 2002).

    Args:
        probs: float `[n, C]`, calibrated under the shares `train`.
        train: float `[C]`, shares of the classes where `probs` were calibrated.
        weight: float `[n]`, how often each row counts; None for once.
        start: float `[C]`, where to begin; None for `train`.
        iterations: At most.
        tolerance: Stops when no share moves more than this.
    """
    p, base = np.asarray(probs, np.float64), np.asarray(train, np.float64)
    often = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64)
    share = base.copy() if start is None else np.asarray(start, np.float64)
    for _ in range(iterations):
        new = often @ adjust(p, base, share) / often.sum()
        moved = np.abs(new - share).max()
        share = new
        if moved <= tolerance:
            break
    return share


def adjust(probs: ArrayLike, train: ArrayLike, prior: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities float64 `[n, C]` under other class shares: p · prior / train, summing to one.

    A class that was never seen in training cannot be corrected and gets nothing.
    """
    p, base = np.asarray(probs, np.float64), np.asarray(train, np.float64)
    ratio = np.where(base > 0, np.asarray(prior, np.float64) / np.where(base > 0, base, 1), 0.0)
    scaled = p * ratio
    total = scaled.sum(-1, keepdims=True)
    found: NDArray[np.float64] = np.where(total > 0, scaled / np.where(total > 0, total, 1), p)
    return found


def bbse(
    held_label: ArrayLike,
    held_guess: ArrayLike,
    guess: ArrayLike,
    classes: int,
    *,
    weight: ArrayLike | None = None,
    held_weight: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return class shares from counts of decisions (black-box shift estimation, Lipton et al. 2018).

    Solves `confusion · w = decisions` for w ≥ 0 by least squares, and scales to shares that sum to one.

    Args:
        held_label: int `[m]`, labels of clips the model had not learned.
        held_guess: int `[m]`, its decisions for them.
        guess: int `[n]`, its decisions for the clips in question.
        classes: C.
        weight: float `[n]`, how often each counts.
        held_weight: float `[m]`, likewise.
    """
    from scipy.optimize import nnls

    y, g = np.asarray(held_label, np.int64), np.asarray(held_guess, np.int64)
    joint = np.bincount(g * classes + y, held_weight, classes**2).reshape(classes, classes)
    joint = joint / joint.sum()
    decisions = np.bincount(np.asarray(guess, np.int64), weight, classes)
    ratio, _ = nnls(joint, decisions / decisions.sum())
    share = ratio * joint.sum(0)
    total = share.sum()
    found: NDArray[np.float64] = share / total if total > 0 else joint.sum(0)
    return found


def class_shares(label: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Return the share of each class among labels `[n]`, float64 `[C]`."""
    counts = np.bincount(np.asarray(label, np.int64), minlength=classes)
    found: NDArray[np.float64] = counts / max(counts.sum(), 1)
    return found


def total_variation(a: ArrayLike, b: ArrayLike) -> float:
    """Return half the sum of absolute differences: the share of clips that would have to change class."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum() / 2)
