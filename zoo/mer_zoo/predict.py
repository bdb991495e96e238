"""Predicting clips of a store with a run."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.data import load_features
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.prepared import logits_of
from mer_zoo.registry import find_model
from mer_zoo.runs import MEAN_OF_FOLDS, OUT_OF_FOLD, Predictions, Run, find_run
from mer_zoo.spaces import guard
from mer_zoo.trainset import check_split

if TYPE_CHECKING:
    from mer_featurestore import Store

_CHUNK = 4096  # clips in memory at once


def predict(
    store: "Store",
    run: Run | str,
    split: str | None = None,
    *,
    keys: Sequence[str] | None = None,
    by_fold: bool = False,
    device: str = "auto",
) -> Predictions:
    """Return class probabilities of a split's clips, or of the clips named.

    A labelled clip that the run was trained on gets its out-of-fold prediction; every other clip the mean of
    the folds' probabilities. Clips without any of the run's features are listed in `missing`.

    Args:
        store: The store.
        run: A run, or its name.
        split: Predict its clips; None with `keys` None predicts all clips.
        keys: Clips to predict instead.
        by_fold: Whether to keep what each fold says.
        device: torch device, or `auto`.

    Raises:
        UnknownName: No such run, split, clip or space.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        ZooError: None of the clips has features.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    guard(store, run.config.inputs, run.name)
    asked = _asked(store, split, keys)
    each, probs, there = _said(store, run, asked, find_device(device))
    if not there.any():
        raise ZooError(
            f"none of the {len(asked)} clips has features in "
            + ", ".join(str(c) for c in run.config.inputs.chosen.values()),
            "extract them: mer-fs extract --plugin …",
        )
    origin = np.full(len(asked), MEAN_OF_FOLDS, np.uint8)
    _put_out_of_fold(run, asked, (probs, *each), origin)
    return Predictions(
        run.name,
        tuple(key for key, kept in zip(asked, there, strict=True) if kept),
        run.config.classes,
        probs[there],
        origin[there],
        tuple(key for key, kept in zip(asked, there, strict=True) if not kept),
        each[:, there] if by_fold else None,
    )


def write_csv(predictions: Predictions, path: Path) -> None:
    """Write predictions as CSV: key, label, confidence, a probability per class, origin."""
    rows = predictions.rows()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _asked(store: "Store", split: str | None, keys: Sequence[str] | None) -> list[str]:
    if keys is not None:
        for key in keys:
            if key not in store.clips:
                raise UnknownName("clip", key, store.clips)
        asked = list(dict.fromkeys(keys))
    else:
        if split is not None:
            check_split(store, split)
        asked = [clip.key for clip in store.clips.select(split=split)]
    if not asked:
        raise ZooError("there are no clips to predict", "add clips: mer-fs ingest CLIPS.csv")
    return asked


def _said(
    store: "Store", run: Run, keys: Sequence[str], device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return what each fold says `[K, n, C]`, its mean `[n, C]`, and which clips have features."""
    modules = [module.to(device) for module in run.modules()]
    pooled = not find_model(run.config.model).frames
    probs = np.zeros((len(keys), len(run.config.classes)), np.float32)
    each = np.zeros((len(modules), *probs.shape), np.float32)
    there = np.zeros(len(keys), np.bool_)
    for first in range(0, len(keys), _CHUNK):
        part = slice(first, first + _CHUNK)
        features = load_features(store, run.config.inputs, keys[part], pooled=pooled)
        there[part] = features.present.numpy()
        at = np.flatnonzero(there[part])
        if len(at):
            placed, index = features.to(device), torch.from_numpy(at).to(device)
            said = torch.stack([logits_of(module, placed, index).softmax(-1) for module in modules])
            each[:, first + at], probs[first + at] = said.cpu().numpy(), said.mean(0).cpu().numpy()
    return each, probs, there


def _put_out_of_fold(
    run: Run, keys: Sequence[str], tables: Sequence[NDArray[np.float32]], origin: NDArray[np.uint8]
) -> None:
    stored = run.predictions
    own = {key: i for i, key in enumerate(stored.keys) if stored.origin[i] == OUT_OF_FOLD}
    for i, key in enumerate(keys):
        if key in own:
            origin[i] = OUT_OF_FOLD
            for probs in tables:
                probs[i] = stored.probs[own[key]]
