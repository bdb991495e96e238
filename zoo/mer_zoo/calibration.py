"""Calibration: making a probability of 0.9 mean right nine times out of ten.

A calibrator is fitted on out-of-fold predictions, the only ones of labelled clips that a run had not
learned. It maps p to softmax(scale · log p + bias):

- `temperature`: one scale for all classes, no bias (Guo et al. 2017, arXiv 1706.04599);
- `bcts`: one scale, a bias per class (bias-corrected temperature scaling, Alexandari et al. 2020,
  arXiv 1901.06852);
- `vector`: a scale and a bias per class (Guo et al. 2017).

A weak normal prior on log scale and bias (*reconstructed*, `ridge`) keeps the fit finite where a class is
missing or every prediction is right.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError

METHODS = ("none", "temperature", "bcts", "vector")
RIDGE = 0.1
_FLOOR = 1e-7  # a float32 probability of 0 is one that was too small to write down


@dataclass(frozen=True)
class Calibrator:
    """p → softmax(scale · log p + bias).

    Attributes:
        method: One of `METHODS`.
        scale: Per class, C of them; 1 / temperature.
        bias: Per class.
    """

    method: str
    scale: tuple[float, ...]
    bias: tuple[float, ...]

    def __call__(self, probs: ArrayLike) -> NDArray[np.float32]:
        """Return calibrated probabilities float32 `[..., C]`; `none` gives back what it got."""
        p = np.asarray(probs)
        if self.method == "none":
            return p.astype(np.float32)
        return _softmax(_log(p) * np.array(self.scale) + np.array(self.bias)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"method": self.method, "scale": list(self.scale), "bias": list(self.bias)}


def fit_calibrator(probs: ArrayLike, label: ArrayLike, method: str, *, ridge: float = RIDGE) -> Calibrator:
    """Fit a calibrator by maximum likelihood (L-BFGS; the loss has one minimum for `temperature` and `bcts`).

    Args:
        probs: float `[n, C]`, predictions for clips the model had not learned.
        label: int `[n]`.
        method: One of `METHODS`.
        ridge: Strength of the prior, in clips.

    Raises:
        UnknownName: No such method.
        ZooError: There is no clip to fit on.
    """
    if method not in METHODS:
        raise UnknownName("calibration", method, METHODS)
    logs, y = _log(np.asarray(probs)), np.asarray(label, np.int64)
    C = logs.shape[1]
    if method == "none":
        return Calibrator(method, (1.0,) * C, (0.0,) * C)
    if not len(y):
        raise ZooError("there are no out-of-fold predictions to calibrate on", "use --calibrate none")
    scales = C if method == "vector" else 1
    free = np.zeros(scales + (0 if method == "temperature" else C))
    best = _minimum(free, scales, logs, y, ridge)
    scale, bias = _unpack(best, scales, C)
    return Calibrator(method, tuple(scale.tolist()), tuple(bias.tolist()))


def cross_fit(
    probs: NDArray[Any], label: NDArray[np.int64], fold: NDArray[np.int64], method: str
) -> NDArray[np.float32]:
    """Calibrate each fold `[n]` by what is fitted on the others, none helping to calibrate itself."""
    found = np.asarray(probs, np.float32).copy()
    for k in np.unique(fold) if method != "none" else ():
        rest = fold != k
        found[~rest] = fit_calibrator(probs[rest], label[rest], method)(probs[~rest])
    return found


def log_loss(probs: NDArray[Any], label: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of the labels."""
    return float(-_log(probs)[np.arange(len(label)), label].mean())


def _minimum(
    free: NDArray[np.float64],
    scales: int,
    logs: NDArray[np.float64],
    label: NDArray[np.int64],
    ridge: float,
) -> NDArray[np.float64]:
    from scipy.optimize import minimize

    n, C = logs.shape
    hot = np.eye(C)[label]

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, bias = _unpack(at, scales, C)
        z = logs * scale + bias
        p = _softmax(z)
        value = -np.log(np.maximum(p[np.arange(n), label], 1e-300)).sum() + ridge / 2 * (at**2).sum()
        slope = (p - hot) * logs * scale
        along = slope.sum(0) if scales > 1 else slope.sum(keepdims=True).ravel()
        gradient = np.concatenate([along, (p - hot).sum(0)])[: len(at)]
        return value / n, (gradient + ridge * at) / n

    found: NDArray[np.float64] = minimize(
        loss, free, jac=True, method="L-BFGS-B", bounds=[(-5, 5)] * len(free)
    ).x
    return found


def _unpack(
    at: NDArray[np.float64], scales: int, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scale = np.broadcast_to(np.exp(at[:scales]), (classes,))
    bias = np.asarray(at[scales:]) if len(at) > scales else np.zeros(classes)
    return scale, bias


def _log(probs: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(np.maximum(probs.astype(np.float64), _FLOOR))
    return found


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(-1, keepdims=True))
    found: NDArray[np.float64] = e / e.sum(-1, keepdims=True)
    return found
