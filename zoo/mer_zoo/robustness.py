"""Is audio really the robust guide? What a run decides when a modality is noisy, masked, or gone.

Corruption is done to the features a run reads, standardised by nobody yet: noise has, in each feature, the
variance the feature has over the clips, divided by the signal-to-noise ratio; what is masked takes the
feature's mean. These definitions are ours (*reconstructed*; the papers report no such experiment).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_zoo.data import Features, Table, load_features
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Experiment, keep, measure
from mer_zoo.prepared import mean_probs
from mer_zoo.registry import find_model
from mer_zoo.runs import OUT_OF_FOLD, Run, find_run
from mer_zoo.spaces import guard
from mer_zoo.trainset import TEST, default_layer
from mer_zoo.truth import class_indices, human_labels

if TYPE_CHECKING:
    from mer_featurestore import Store

SNRS = (20.0, 10.0, 0.0)
MASKED = 0.5


def robustness(
    store: "Store",
    run: Run | str,
    *,
    snrs: Sequence[float] = SNRS,
    masked: float = MASKED,
    seeds: int = 5,
    judge: str = TEST,
    labels: str | None = None,
    device: str = "auto",
    command: str = "",
) -> Experiment:
    """Corrupt each modality a run reads, one at a time, and score what it decides.

    Args:
        store: The store.
        run: A run, or its name.
        snrs: Signal-to-noise ratios of noise, in dB.
        masked: Share of a clip's frames (in a run) or, of single vectors, of its features, that is masked.
        seeds: Draws of noise and masks.
        judge: Split whose clips are predicted; those the run was trained on are left out.
        labels: Layer with their human labels; None takes `gold`, or the only one.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split or layer.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        ZooError: A share outside 0 to 1, fewer seeds than one, a ratio that is no number, or no clip to
            judge.
    """
    if not 0 < masked < 1 or seeds < 1:
        told = f"a masked share of {masked:g} with {seeds} seeds"
        raise ZooError(told, "use a share between 0 and 1, and 1 seed or more")
    check_ratios(snrs)
    run = find_run(store, run) if isinstance(run, str) else run
    guard(store, run.config.inputs, run.name)
    layer = labels or default_layer(store)
    keys, label = unseen(store, run, layer, judge)
    pooled = not find_model(run.config.model).frames
    features = load_features(store, run.config.inputs, keys, pooled=pooled)
    if not features.present.any():
        raise ZooError(
            f"none of the {len(keys)} clips has features", "extract them: mer-fs extract --plugin …"
        )
    clean = decide(run, features, device)
    said = {"clean": clean[None]}
    for name in (name for name, table in features.tables.items() if table.length.any()):
        for snr in snrs:
            said[f"{name}, noise at {snr:g} dB"] = _each(run, features, device, seeds, name, snr=snr)
        said[f"{name}, {masked:.0%} masked"] = _each(run, features, device, seeds, name, masked=masked)
        if len(features.tables) > 1:
            gone = decide(run, removed(features, name), device)
            # Who has nothing else cannot be decided about; a clip that drops out would flatter the rest.
            said[f"{name}, removed"] = np.where(gone < 0, likeliest(run), gone)[None]
    said = {name: np.where(clean < 0, -1, rows) for name, rows in said.items()}
    lines = measure(label, said, len(run.config.classes))
    return keep(
        store, "robustness", f"{judge} ({layer})", lines, parents=[f"runs/{run.name}", f"labels/{layer}"],
        facts={"run": run.name, "snrs": list(snrs), "masked": masked, "seeds": seeds}, command=command,
    )  # fmt: skip


def unseen(store: "Store", run: Run, layer: str, judge: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the human-labelled clips of a split that no fold of a run has seen labelled, and their labels.

    Raises:
        UnknownName: No such layer or split.
        ZooError: There is none.
    """
    truth = human_labels(store, layer, judge)
    keys = sorted(set(truth) - set(run.config.folds))
    if not keys:
        raise ZooError(f"{run.name} was trained on all labelled clips of {judge!r}", "choose another --judge")
    return keys, class_indices(truth, keys, run.config.classes, run.name)


def check_ratios(snrs: Sequence[float]) -> None:
    """Raise ZooError for a signal-to-noise ratio that is no number of dB."""
    for snr in snrs:
        if not math.isfinite(snr):
            raise ZooError(f"noise at {snr:g} dB", "give a number, e.g. 10")


def noisy(features: Features, name: str, snr: float, seed: int) -> Features:
    """Add white noise to a modality, at a signal-to-noise ratio in dB, feature by feature."""
    table = features.tables[name]
    rows = table.rows[:-1].double()
    scale = rows.std(0, correction=0) * 10 ** (-snr / 20)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _with(features, name, rows + noise * scale, table)


def masked_out(features: Features, name: str, share: float, seed: int) -> Features:
    """Put the mean in place of a share of every clip: a run of frames, or features of a lone vector."""
    table = features.tables[name]
    rows, mean = table.rows[:-1].double().clone(), table.rows[:-1].double().mean(0)
    rng = np.random.default_rng(seed)
    for start, length in zip(table.start.tolist(), table.length.tolist(), strict=True):
        if length == 1:
            at = torch.from_numpy(rng.permutation(table.width)[: max(1, round(share * table.width))])
            rows[start, at] = mean[at]
        elif length:
            count = max(1, round(share * length))
            first = start + int(rng.integers(0, length - count + 1))
            rows[first : first + count] = mean
    return _with(features, name, rows, table)


def removed(features: Features, name: str) -> Features:
    """Take a modality away from every clip."""
    table = features.tables[name]
    gone = Table(table.rows, table.start, torch.zeros_like(table.length))
    return replace(features, tables={**features.tables, name: gone})


def _with(features: Features, name: str, rows: Tensor, table: Table) -> Features:
    whole = torch.cat([rows.float(), table.rows[-1:].float()])  # the row of zeros that padding points at
    tables: Mapping[str, Table] = {**features.tables, name: Table(whole, table.start, table.length)}
    return replace(features, tables=tables)


def _each(
    run: Run,
    features: Features,
    device: str,
    seeds: int,
    name: str,
    *,
    snr: float | None = None,
    masked: float = 0.0,
) -> NDArray[np.int64]:
    """Return decisions int64 `[S, n]`, one row for each draw of noise or masks."""
    rows = []
    for seed in range(seeds):
        if snr is None:
            changed = masked_out(features, name, masked, seed)
        else:
            changed = noisy(features, name, snr, seed)
        rows.append(decide(run, changed, device))
    return np.stack(rows)


def decide(run: Run, features: Features, device: str) -> NDArray[np.int64]:
    """Return the likeliest class of each clip, int64 `[n]`; -1 for a clip without any features."""
    where = find_device(device)
    modules = [module.to(where) for module in run.modules()]
    at = torch.from_numpy(np.flatnonzero(features.present.numpy()))
    said = np.full(len(features), -1, np.int64)
    if len(at):
        said[at.numpy()] = mean_probs(modules, features.to(where), at.to(where)).argmax(1)
    return said


def likeliest(run: Run) -> int:
    """Return the class the run predicts most often out of fold: a guess that needs no features."""
    own = run.predictions.origin == OUT_OF_FOLD
    return int(np.bincount(run.predictions.probs[own].argmax(1)).argmax())
