"""The class shares of the clips on a ballot, estimated without a label of theirs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.ballots import Ballot
from mer_zoo.calibration import Calibrator, fit_calibrator
from mer_zoo.errors import ZooError
from mer_zoo.label_shift import bbse, class_shares, em_prior, total_variation


@dataclass(frozen=True)
class Shares:
    """How often each of C classes occurs.

    Attributes:
        classes: C names.
        train: float64 `[C]`, among the held-out clips, where people say.
        em: float64 `[C]`, among the clips on the ballot, by EM (Saerens et al. 2002).
        bbse: float64 `[C]`, likewise by black-box shift estimation (Lipton et al. 2018).
        calibrator: Of the members' mean by one fold each, fitted on held-out clips.
    """

    classes: tuple[str, ...]
    train: NDArray[np.float64]
    em: NDArray[np.float64]
    bbse: NDArray[np.float64]
    calibrator: Calibrator

    @property
    def apart(self) -> float:
        """Total variation between the two estimates."""
        return total_variation(self.em, self.bbse)

    def to_json(self) -> dict[str, Any]:
        """Return the shares by class, and how far the two estimates are apart."""
        kinds = {"train_prior": self.train, "prior": self.em, "bbse": self.bbse}
        shares = {kind: named(self.classes, values) for kind, values in kinds.items()}
        return {**shares, "apart": self.apart, "calibrator": self.calibrator.to_json()}


def estimate(ballot: Ballot, method: str = "bcts") -> Shares | None:
    """Estimate the class shares of the clips on a ballot; None without held-out clips.

    Held-out clips were judged by one fold of each member. What is learned on them, calibration and confusion,
    is applied to what single folds say of the clips in question (`Ballot.single`), where that is known.

    Args:
        ballot: n clips.
        method: Of calibration (see `mer_zoo.calibration`).

    Raises:
        UnknownName: No such calibration.
    """
    held = ballot.held_out
    if held is None or not held.ballot.cast.any():
        return None
    C, known = len(ballot.classes), np.asarray(held.ballot.cast.any(0))
    label, mean = held.label[known], held.ballot.mean[known]
    train, calibrator = class_shares(label, C), fit_calibrator(mean, label, method)
    said = singles(ballot)[:, np.asarray(ballot.cast.any(0))].reshape(-1, C)
    if not len(said):
        return Shares(ballot.classes, train, train, train, calibrator)
    em = em_prior(calibrator(said), train)
    black_box = bbse(label, mean.argmax(1), said.argmax(1), C)
    return Shares(ballot.classes, train, em, black_box, calibrator)


def singles(ballot: Ballot) -> NDArray[np.float32]:
    """Return the members' mean by one fold of each, `[J, n, C]`; their mean alone where folds are unknown."""
    return ballot.mean[None] if ballot.single is None else ballot.single


def given(classes: Sequence[str], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """Return shares as somebody gave them, float64 `[C]`, summing to one; what is not named is 0.

    Raises:
        UnknownName: A class that is not among these.
        ZooError: A share that is no number of 0 or more, or none above 0.
    """
    for name, value in shares.items():
        if name not in classes:
            raise UnknownName("class", name, classes)
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ZooError(f"the share of {name} is {value!r}", "give a number of 0 or more, e.g. 0.4")
    share = np.array([float(shares.get(name, 0.0)) for name in classes])
    if not share.sum() > 0:
        raise ZooError("no class has a share above 0", 'give e.g. {"angry": 0.4, "sad": 0.6}')
    found: NDArray[np.float64] = share / share.sum()
    return found


def named(classes: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    """Return class -> value."""
    return {name: float(value) for name, value in zip(classes, values, strict=True)}
