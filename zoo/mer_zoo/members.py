"""Members of a round: what runs say, calibrated, of clips in question and of clips they had not learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput
from mer_zoo.ballots import Ballot, HeldOut, mean_of
from mer_zoo.bootstrap import Interval
from mer_zoo.calibration import Calibrator, cross_fit, fit_calibrator, log_loss
from mer_zoo.errors import ZooError
from mer_zoo.metrics import expected_calibration_error
from mer_zoo.predict import predict
from mer_zoo.proportions import wilson
from mer_zoo.runs import OUT_OF_FOLD, Run, dump, find_run
from mer_zoo.trainset import HUMAN, default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store

SURE = 0.9
OUT_OF_FOLDS = "out of fold"


@dataclass(frozen=True)
class OutOfFold:
    """A run's predictions of the human-labelled clips it was validated on.

    Attributes:
        keys: m clips, sorted.
        label: int64 `[m]`, index into the run's classes.
        probs: float32 `[m, C]`.
        fold: int64 `[m]`.
    """

    keys: tuple[str, ...]
    label: NDArray[np.int64]
    probs: NDArray[np.float32]
    fold: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A run's calibration, and what it is worth on clips that did not help to fit it.

    Attributes:
        run: The run.
        on: Which clips: `out of fold`, or a split.
        calibrator: Fitted on all out-of-fold predictions.
        n: Clips it is judged on.
        ece: Expected calibration error before and after.
        log_loss: Mean negative log-likelihood before and after.
        sure: Clips with a confidence above 0.9, before and after.
        right: How many of these are right.
        label: int64 `[n]`.
        before: float32 `[n, C]`.
        after: float32 `[n, C]`; out of fold, each fold calibrated by what is fitted on the others.
        record: Name of the record in the store; empty out of fold.
    """

    run: str
    on: str
    calibrator: Calibrator
    n: int
    ece: tuple[float, float]
    log_loss: tuple[float, float]
    sure: tuple[int, int]
    right: tuple[int, int]
    label: NDArray[np.int64]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    record: str = ""

    @property
    def precision(self) -> tuple[Interval, Interval]:
        """95 % intervals of the share that is right among clips surer than 0.9, before and after."""
        before, after = (wilson(r, s) for r, s in zip(self.right, self.sure, strict=True))
        return before, after

    @property
    def keeps_its_word(self) -> bool | None:
        """Whether "surer than 0.9" means right 9 times of 10; None where the clips are too few to say."""
        low, high = self.precision[1]
        if low < SURE <= high:
            return None
        return low >= SURE

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, without the predictions."""
        plain = {name: list(getattr(self, name)) for name in ("ece", "log_loss", "sure", "right")}
        precision = [list(interval) for interval in self.precision]
        told = {"on": self.on, "n": self.n, "record": self.record}
        return {**told, **self.calibrator.to_json(), **plain, "precision": precision}


def out_of_fold(store: "Store", run: Run) -> OutOfFold:
    """Return a run's out-of-fold predictions with the human labels they are held against.

    Raises:
        ZooError: The run has none.
    """
    stored, resolved = run.predictions, store.labels.resolve(run.config.labels)
    rows = [
        (key, i)
        for i, key in enumerate(stored.keys)
        if stored.origin[i] == OUT_OF_FOLD and key in resolved and resolved.source[resolved.row(key)] == HUMAN
    ]
    if not rows:
        raise ZooError(f"run {run.name!r} has no out-of-fold predictions of labelled clips")
    place = {name: i for i, name in enumerate(run.config.classes)}
    keys = tuple(key for key, _ in sorted(rows))
    return OutOfFold(
        keys,
        np.array([place[resolved[key]] for key in keys], np.int64),
        stored.probs[[i for _, i in sorted(rows)]],
        np.array([run.config.folds[key] for key in keys], np.int64),
    )


def calibrate(store: "Store", run: Run | str, method: str = "bcts") -> Calibration:
    """Fit a run's calibration on its out-of-fold predictions, and judge it across folds.

    Nothing is written. The predictions come from epochs that were chosen on these very clips, which makes
    them slightly optimistic; and a run predicts other clips with the mean of its folds, which is less
    extreme than one fold, so that the calibrated probabilities err on the side of caution there.

    Raises:
        UnknownName: No such run or method.
        ZooError: The run has no out-of-fold predictions.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    held = out_of_fold(store, run)
    calibrator = fit_calibrator(held.probs, held.label, method)
    after = cross_fit(held.probs, held.label, held.fold, method)
    return _judged(run, calibrator, held.label, held.probs, after, OUT_OF_FOLDS)


def calibrate_on(
    store: "Store",
    run: Run | str,
    split: str,
    method: str = "bcts",
    *,
    labels: str | None = None,
    device: str = "auto",
    command: str = "",
) -> Calibration:
    """Fit a run's calibration on its out-of-fold predictions, and judge it on the labelled clips of a split.

    As an evaluation it reads labels of clips that never train, and goes on record in the journal.

    Args:
        store: The store; it moves to the commit that records the judgement.
        run: A run, or its name.
        split: Whose clips; those the run was validated on are left out.
        method: Of calibration.
        labels: Layer with their human labels; None takes `gold`, or the only one.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split, layer or method.
        ZooError: No labelled clip of the split is new to the run, or the run has no out-of-fold predictions.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    held, layer = out_of_fold(store, run), labels or default_layer(store)
    calibrator = fit_calibrator(held.probs, held.label, method)
    truth = human_labels(store, layer, split)
    keys = sorted(set(truth) - set(held.keys))
    if not keys:
        raise ZooError(
            f"{run.name} was validated on all labelled clips of {split!r}", "choose another --split"
        )
    predicted = predict(store, run, keys=keys, device=device)
    label = class_indices(truth, predicted.keys, predicted.classes, run.name)
    found = _judged(run, calibrator, label, predicted.probs, calibrator(predicted.probs), split)
    facts = {"type": "calibration", "run": run.name, "split": split, "labels": layer, "method": method}
    record = store.runs.add_numbered(
        f"{run.name}.calibration",
        {"calibration.json": dump({**facts, **found.to_json()})},
        parents=(f"runs/{run.name}", f"labels/{layer}"),
        attrs={**facts, "n": found.n, "ece": list(found.ece)},
        command=command,
        message=f"judge {method} calibration of {run.name} on {split}: ECE {found.ece[1]:.4f}",
    )
    return replace(found, record=record.name)


def _judged(
    run: Run,
    calibrator: Calibrator,
    label: NDArray[np.int64],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    on: str,
) -> Calibration:
    both = (before, after)
    sure = [p.max(1) > SURE for p in both]
    right = [(p.argmax(1) == label) & s for p, s in zip(both, sure, strict=True)]
    ece = [expected_calibration_error(label, p.astype(np.float64)) for p in both]
    return Calibration(
        run=run.name,
        on=on,
        calibrator=calibrator,
        n=len(label),
        ece=(ece[0], ece[1]),
        log_loss=(log_loss(before, label), log_loss(after, label)),
        sure=(int(sure[0].sum()), int(sure[1].sum())),
        right=(int(right[0].sum()), int(right[1].sum())),
        label=label,
        before=before,
        after=after,
    )


def find_members(store: "Store", runs: Sequence[Run | str]) -> list[Run]:
    """Return runs, each once.

    Raises:
        UnknownName: No such run.
        ZooError: None, or one twice.
    """
    if not runs:
        raise ZooError("a round needs members", "name runs: --run A --run B")
    found = [find_run(store, run) if isinstance(run, str) else run for run in runs]
    names = [run.name for run in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ZooError(f"run {min(twice)!r} is named twice", "name each member once")
    return found


def collect(
    store: "Store",
    runs: Sequence[Run],
    keys: Sequence[str],
    classes: tuple[str, ...],
    *,
    method: str = "none",
    device: str = "auto",
) -> tuple[Ballot, dict[str, Calibration]]:
    """Let runs predict clips, and gather what they say of clips they had not learned.

    Args:
        store: The store.
        runs: M members.
        keys: n clips.
        classes: Order of the classes.
        method: How each member's probabilities are calibrated (see `mer_zoo.calibration`).
        device: torch device, or `auto`.

    Returns:
        The ballot, and each member's calibration (without any for `none`).

    Raises:
        BadInput: A run knows other classes.
        FingerprintMismatch: The store's features were made otherwise than those a member was trained on.
    """
    place = {key: i for i, key in enumerate(keys)}
    probs = np.zeros((len(runs), len(keys), len(classes)), np.float32)
    cast = np.zeros((len(runs), len(keys)), np.bool_)
    most = max(run.config.fold_count for run in runs)
    single = np.zeros((most, *probs.shape), np.float32)
    found = {}
    for m, run in enumerate(runs):
        columns = _columns_of(run, classes)
        predicted = predict(store, run, keys=keys, by_fold=True, device=device)
        at, said, folds = np.array([place[key] for key in predicted.keys]), predicted.probs, predicted.single
        if method != "none":
            found[run.name] = calibrate(store, run, method)
            said, folds = found[run.name].calibrator(said), found[run.name].calibrator(folds)
        probs[m, at], cast[m, at] = said[:, columns], True
        for j in range(most):
            single[j, m, at] = folds[j % len(folds)][:, columns]
    names = tuple(f"runs/{run.name}" for run in runs)
    held = collect_held_out(store, runs, classes, method=method)
    means = np.stack([mean_of(each, cast) for each in single])
    return Ballot(names, classes, tuple(keys), probs, cast, held, means), found


def collect_held_out(
    store: "Store", runs: Sequence[Run], classes: tuple[str, ...], *, method: str = "none"
) -> HeldOut:
    """Gather members' out-of-fold predictions, calibrated across folds, in halves of whole folds.

    Raises:
        BadInput: A run knows other classes.
        ZooError: A run has no out-of-fold predictions.
    """
    names = tuple(f"runs/{run.name}" for run in runs)
    each = [out_of_fold(store, run) for run in runs]
    keys = tuple(sorted({key for held in each for key in held.keys}))
    place = {key: i for i, key in enumerate(keys)}
    probs = np.zeros((len(runs), len(keys), len(classes)), np.float32)
    cast = np.zeros((len(runs), len(keys)), np.bool_)
    label, half = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
    # The first name's folds part the clips: the order in which members are named must not show.
    for m in sorted(range(len(runs)), key=lambda m: names[m], reverse=True):
        run, held = runs[m], each[m]
        at, columns = np.array([place[key] for key in held.keys]), _columns_of(run, classes)
        probs[m, at] = cross_fit(held.probs, held.label, held.fold, method)[:, columns]
        cast[m, at] = True
        label[at] = np.argsort(columns)[held.label]
        half[at] = held.fold % 2 == 1
    return HeldOut(Ballot(names, classes, keys, probs, cast), label, half)


def _columns_of(run: Run, classes: tuple[str, ...]) -> NDArray[np.int64]:
    if set(run.config.classes) != set(classes):
        raise BadInput(
            f"run {run.name!r} knows the classes {', '.join(run.config.classes)}, "
            f"and the layer has {', '.join(classes)}",
            "use runs trained on the layer's classes",
        )
    return np.array([run.config.classes.index(name) for name in classes])
