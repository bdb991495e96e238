"""How often each class occurs among clips nobody labelled, estimated from a run's predictions of them.

Two estimators that fail differently stand side by side: EM on calibrated probabilities, and BBSE on
decisions. Where their intervals do not meet, label shift is not what happened, or the calibration is off.
Nothing here reads a label of the clips in question, unless a layer with the truth is named to compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.bootstrap import LEVEL
from mer_zoo.calibration import fit_calibrator
from mer_zoo.errors import ZooError
from mer_zoo.label_shift import adjust, bbse, class_shares, em_prior, total_variation
from mer_zoo.members import OutOfFold, out_of_fold
from mer_zoo.predict import predict
from mer_zoo.runs import MEAN_OF_FOLDS, Predictions, Run, find_run
from mer_zoo.settings import check_seed
from mer_zoo.trainset import HUMAN
from mer_zoo.warm import pseudo_labelled

if TYPE_CHECKING:
    from mer_featurestore import Store

RESAMPLES = 200
_ROUGH = 1e-5  # EM in a resample starts at the estimate, and need not be finer than its spread


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Class shares, with 95 % bootstrap intervals over clips, labelled and unlabelled ones alike.

    Attributes:
        share: float64 `[C]`.
        low: float64 `[C]`.
        high: float64 `[C]`.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Priors:
    """Class shares in training, as estimated for a split, and as they are.

    Attributes:
        run: Whose predictions.
        split: Of which clips.
        classes: C names.
        n: Clips of the split.
        held: Out-of-fold clips.
        method: Of calibration.
        train: float64 `[C]`, of the labelled clips the calibration is fitted on.
        mean: float64 `[C]`, mean calibrated probability, which label shift makes lean towards `train`.
        em: By EM (Saerens et al. 2002).
        bbse: By black-box shift estimation (Lipton et al. 2018).
        truth: float64 `[C]`, where a layer knows; else None.
        known: Clips whose class the layer knows.
        notices: What a person should know.
    """

    run: str
    split: str
    classes: tuple[str, ...]
    n: int
    held: int
    method: str
    train: NDArray[np.float64]
    mean: NDArray[np.float64]
    em: Estimate
    bbse: Estimate
    truth: NDArray[np.float64] | None = None
    known: int = 0
    notices: tuple[str, ...] = ()

    def distances(self) -> dict[str, float]:
        """Return how far each set of shares is from the truth, as total variation; nothing without truth."""
        if self.truth is None:
            return {}
        found = {"train": self.train, "mean": self.mean, "em": self.em.share, "bbse": self.bbse.share}
        return {name: total_variation(share, self.truth) for name, share in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, shares by class."""
        rows = {
            name: {
                "train": float(self.train[i]),
                "mean": float(self.mean[i]),
                "em": [float(x[i]) for x in (self.em.share, self.em.low, self.em.high)],
                "bbse": [float(x[i]) for x in (self.bbse.share, self.bbse.low, self.bbse.high)],
                "truth": None if self.truth is None else float(self.truth[i]),
            }
            for i, name in enumerate(self.classes)
        }
        plain = {name: getattr(self, name) for name in ("run", "split", "n", "held", "method", "known")}
        return {**plain, "classes": rows, "distances": self.distances(), "notices": list(self.notices)}


def priors(
    store: "Store",
    run: Run | str,
    split: str = "unlabeled",
    *,
    truth: str | None = None,
    calibrate: str = "bcts",
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str = "auto",
) -> Priors:
    """Estimate the class shares of a split from a run's predictions.

    Args:
        store: The store; nothing is written.
        run: A run, or its name.
        split: Whose clips; those the run was validated on are left out.
        truth: A label layer whose human labels say what the clips are, to compare with.
        calibrate: How probabilities are calibrated (see `mer_zoo.calibration`).
        resamples: Bootstrap samples, of both kinds of clips, calibration included.
        seed: Decides them.
        device: torch device, or `auto`.

    Raises:
        UnknownName: No such run, split, layer or calibration.
        ZooError: No clip of the split is new to the run, or known to the layer; a seed out of range.
    """
    if resamples < 1:
        raise ZooError(f"{resamples} bootstrap samples", "use 1 or more")
    check_seed(seed)
    run = find_run(store, run) if isinstance(run, str) else run
    held, predicted = out_of_fold(store, run), predict(store, run, split, by_fold=True, device=device)
    new = predicted.origin == MEAN_OF_FOLDS
    if not new.any():
        raise ZooError(f"run {run.name!r} was validated on all clips of {split!r}", "choose another --split")
    keys = [key for key, there in zip(predicted.keys, new, strict=True) if there]
    train, calibrated, em, black_box = _estimate(held, predicted.single[:, new], calibrate, resamples, seed)
    share, known = _truth(store, truth, keys, run.config.classes) if truth else (None, 0)
    return Priors(
        run=run.name, split=split, classes=run.config.classes, n=len(keys), held=len(held.label),
        method=calibrate, train=train, mean=calibrated, em=em, bbse=black_box, truth=share, known=known,
        notices=_notices(store, run, keys, em, black_box),
    )  # fmt: skip


def corrected(
    store: "Store",
    predictions: Predictions,
    *,
    calibrate: str = "none",
    prior_split: str | None = None,
    device: str = "auto",
) -> Predictions:
    """Calibrate predictions, and with `prior_split` correct them for the class shares estimated there by EM.

    The correction adds log(estimated share / training share) to the logits of each fold, where the
    predictions hold these (`predict(…, by_fold=True)`), else of their mean. Out-of-fold predictions are left
    as they are: they are what calibration is fitted on, and come from the training shares.

    Raises:
        UnknownName: No such run, split or calibration.
        ZooError: The run has no out-of-fold predictions, or none of the split's clips is new to it.
    """
    run = find_run(store, predictions.run)
    held = out_of_fold(store, run)
    calibrator = fit_calibrator(held.probs, held.label, calibrate)
    probs = calibrator(predictions.probs)
    if prior_split is not None:
        train = class_shares(held.label, len(run.config.classes))
        there = predict(store, run, prior_split, by_fold=True, device=device)
        new = there.origin == MEAN_OF_FOLDS
        if not new.any():
            raise ZooError(
                f"run {run.name!r} was validated on all clips of {prior_split!r}",
                "choose another --prior-split",
            )
        share = em_prior(calibrator(there.single[:, new]).reshape(-1, len(train)), train)
        folds = predictions.probs[None] if predictions.folds is None else predictions.folds
        probs = adjust(calibrator(folds), train, share).mean(0).astype(np.float32)
    own = (predictions.origin != MEAN_OF_FOLDS)[:, None]
    return replace(predictions, probs=np.where(own, predictions.probs, probs))


def _estimate(
    held: OutOfFold, probs: NDArray[np.float32], method: str, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], Estimate, Estimate]:
    """Estimate from what each fold says `[K, n, C]`; in a resample one fold, drawn, speaks for a clip."""
    K, n, C = probs.shape
    train = class_shares(held.label, C)
    calibrated = fit_calibrator(held.probs, held.label, method)(probs).reshape(-1, C)
    em = em_prior(calibrated, train)
    held_guess, guess = held.probs.argmax(1), probs.argmax(2)
    black_box = bbse(held.label, held_guess, guess.ravel(), C)
    rng = np.random.default_rng(seed)
    draws = np.zeros((2, resamples, C))
    for r in range(resamples):
        at = rng.integers(0, len(held.label), len(held.label))
        often = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        fold = rng.integers(0, K, n), np.arange(n)
        label = held.label[at]
        shares = class_shares(label, C)
        again = fit_calibrator(held.probs[at], label, method)(probs[fold])
        draws[0, r] = em_prior(again, shares, weight=often, start=_inside(em, shares), tolerance=_ROUGH)
        draws[1, r] = bbse(label, held_guess[at], guess[fold], C, weight=often)
    low, high = np.percentile(draws, (50 * (1 - LEVEL), 50 * (1 + LEVEL)), axis=1)
    found = [Estimate(share=s, low=low[i], high=high[i]) for i, s in enumerate((em, black_box))]
    return train, calibrated.mean(0, dtype=np.float64), found[0], found[1]


def _inside(share: NDArray[np.float64], train: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a start for EM: it never leaves 0, so no class may begin there that was seen in training."""
    start = np.where(train > 0, np.maximum(share, 1e-3), 0.0)
    found: NDArray[np.float64] = start / start.sum()
    return found


def _truth(
    store: "Store", layer: str, keys: Sequence[str], classes: tuple[str, ...]
) -> tuple[NDArray[np.float64], int]:
    resolved = store.labels.resolve(layer)
    known = [resolved[key] for key in keys if key in resolved and resolved.source[resolved.row(key)] == HUMAN]
    place = {name: i for i, name in enumerate(classes)}
    label = [place[name] for name in known if name in place]
    if not label:
        raise ZooError(
            f"layer {layer!r} has a human label for none of the {len(keys)} clips", "name another --truth"
        )
    return class_shares(label, len(classes)), len(label)


def _notices(
    store: "Store", run: Run, keys: Sequence[str], em: Estimate, black_box: Estimate
) -> tuple[str, ...]:
    told = []
    apart = (em.low > black_box.high) | (black_box.low > em.high)
    if apart.any():
        named = ", ".join(name for name, far in zip(run.config.classes, apart, strict=True) if far)
        told.append(f"the intervals of EM and BBSE do not meet ({named}): trust neither estimate")
    learned = len(pseudo_labelled(store, run) & set(keys))
    if learned:
        told.append(
            f"{learned} of these clips trained the run with a pseudo-label, and it is too sure of them; "
            "a run trained on human labels alone estimates better"
        )
    return tuple(told)
