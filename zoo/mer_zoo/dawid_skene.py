"""Dawid and Skene (1979): true classes and every voter's confusions, estimated together by EM."""

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-6
_TINY = 1e-12


def dawid_skene(
    votes: NDArray[np.int16],
    classes: int,
    *,
    known: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None,
    iterations: int = 100,
    smoothing: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Return what n clips are, and what their M voters are worth.

    Starts from the shares of votes. The class shares are those of the n clips alone, so that known clips of
    other proportions teach confusions and nothing else.

    Args:
        votes: int16 `[n, M]`, -1 where a voter abstains.
        classes: C.
        known: Votes int16 `[m, M]` on clips whose class int64 `[m]` is known.
        iterations: At most.
        smoothing: Votes added to each row of a voter's confusion counts, spread over the classes, the right
            one getting twice its share.

    Returns:
        Probabilities float32 `[n, C]` (zeros where all abstain), confusions float64 `[M, C, C]` (rows = true
        class, sum to one), class shares float64 `[C]`.
    """
    hot = _one_hot(votes, classes)
    anchors = None if known is None else (_one_hot(known[0], classes), np.eye(classes)[known[1]])
    voted = np.asarray((votes >= 0).any(1))
    total = hot.sum(0)
    truth = total / np.maximum(total.sum(1, keepdims=True), 1)
    prior_counts = smoothing * (np.ones((classes, classes)) + np.eye(classes)) / (classes + 1)
    errors, shares = _learn(hot, truth, anchors, prior_counts, voted)
    for _ in range(iterations):
        new = _judge(hot, errors, shares) * voted[:, None]
        moved = np.abs(new - truth).max(initial=0.0)
        truth = new
        errors, shares = _learn(hot, truth, anchors, prior_counts, voted)
        if moved <= _TOLERANCE:
            break
    return truth.astype(np.float32), errors, shares


def _one_hot(votes: NDArray[np.int16], classes: int) -> NDArray[np.float64]:
    """Return votes as float64 `[M, n, C]`; an abstention is a row of zeros."""
    hot: NDArray[np.float64] = (votes.T[:, :, None] == np.arange(classes)).astype(np.float64)
    return hot


def _learn(
    hot: NDArray[np.float64],
    truth: NDArray[np.float64],
    anchors: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    prior_counts: NDArray[np.float64],
    voted: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = np.einsum("nt,mnv->mtv", truth, hot) + prior_counts
    if anchors is not None:
        counts += np.einsum("nt,mnv->mtv", anchors[1], anchors[0])
    classes = truth.shape[1]
    shares = (truth.sum(0) + _TINY) / (voted.sum() + classes * _TINY)
    return counts / counts.sum(2, keepdims=True), shares


def _judge(
    hot: NDArray[np.float64], errors: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probability of each class, float64 `[n, C]`; summed over voters in sorted order."""
    said = np.sort(np.einsum("mnv,mtv->mnt", hot, np.log(errors)), axis=0).sum(0) + np.log(shares)
    e = np.exp(said - said.max(1, keepdims=True))
    found: NDArray[np.float64] = e / e.sum(1, keepdims=True)
    return found
