"""Robustness where it counts: noise in the sound or the pictures, and the features extracted anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mer_featurestore.records import Clip, Modality
from mer_plugins.plan import Plan, Request, plan
from mer_zoo.data import Features, load_features
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Experiment, keep, measure
from mer_zoo.media_noise import noisy_film, noisy_sound
from mer_zoo.registry import find_model
from mer_zoo.robustness import SNRS, decide, likeliest, removed, unseen
from mer_zoo.runs import Run, find_run
from mer_zoo.spaces import Inputs, guard
from mer_zoo.trainset import TEST, default_layer

if TYPE_CHECKING:
    from mer_featurestore import Store

_WRITERS = {"audio": (noisy_sound, "wav"), "video": (noisy_film, "mkv")}


def robustness_media(
    store: "Store",
    run: Run | str,
    request: Request,
    *,
    snrs: Sequence[float] = SNRS,
    seed: int = 0,
    judge: str = TEST,
    labels: str | None = None,
    device: str = "auto",
    command: str = "",
) -> Experiment:
    """Add noise to sound or pictures, extract features from that, and score what a run decides.

    The copies and their features live in a temporary folder; the store gets the record alone. One line
    extracts from copies without noise: what it loses is lost by copying. A clip that cannot be extracted any
    more, such as one in which no face is found, lacks the modality, as it would in use; where it has nothing
    else, the class the run predicts most often stands for a decision.

    Args:
        store: The store.
        run: A run, or its name.
        request: The extraction that made one of its spaces, as it was asked for.
        snrs: Signal-to-noise ratios, in dB.
        seed: Decides the noise.
        judge: Split whose clips are predicted; those the run was trained on are left out.
        labels: Layer with their human labels; None takes `gold`, or the only one.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split, layer, plugin or option.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        ZooError: The extraction is not the one that made a space the run reads, or is of text.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    guard(store, run.config.inputs, run.name)
    layer = labels or default_layer(store)
    keys, label = unseen(store, run, layer, judge)
    name, planned = _input(store, run, replace(request, keys=tuple(keys)))
    pooled = not find_model(run.config.model).frames
    features = load_features(store, run.config.inputs, keys, pooled=pooled)
    stored = decide(run, features, device)
    said = {"as stored": stored[None]}
    clips = [store.clips[key] for key in keys]
    for snr in (np.inf, *snrs):
        line = "copied without noise" if np.isinf(snr) else f"{name}, noise at {snr:g} dB in the media"
        changed = _extracted(planned, clips, snr, seed, run.config.inputs, name, features, pooled=pooled)
        decided = decide(run, changed, device)
        said[line] = np.where((decided < 0) & (stored >= 0), likeliest(run), decided)[None]
    lines = measure(label, said, len(run.config.classes))
    return keep(
        store, "robustness-media", f"{judge} ({layer})", lines, command=command,
        parents=[f"runs/{run.name}", f"labels/{layer}"],
        facts={"run": run.name, "plugin": request.plugin, "snrs": list(snrs), "seed": seed},
    )  # fmt: skip


def _input(store: "Store", run: Run, request: Request) -> tuple[str, Plan]:
    """Return which of the run's inputs the extraction makes, and the plan of it."""
    planned = plan(store, request)
    if planned.card.modality not in _WRITERS:
        raise ZooError(f"{planned.card.name} reads {planned.card.modality}", "noise is for audio and video")
    made = {spec.fingerprint: spec for spec in planned.specs}
    for name, chosen in run.config.inputs.chosen.items():
        if chosen.fingerprint in made:
            only = replace(made[chosen.fingerprint], parents=())  # adapters are not in the temporary store
            return name, replace(planned, specs=(only,))
    asked = ", ".join(f"{spec.name} {spec.fingerprint[:12]}" for spec in planned.specs)
    reads = ", ".join(f"{c} {c.fingerprint[:12]}" for c in run.config.inputs.chosen.values())
    raise ZooError(
        f"{run.name} reads {reads}, and this extraction makes {asked}",
        "repeat the options of the mer-fs extract that made it (mer-fs log shows them)",
    )


def _extracted(
    planned: Plan,
    clips: Sequence[Clip],
    snr: float,
    seed: int,
    inputs: Inputs,
    name: str,
    features: Features,
    *,
    pooled: bool,
) -> Features:
    """Return features in which one input comes from noisy copies of the clips' media."""
    from mer_featurestore import Store
    from mer_plugins.pipeline import extract

    with TemporaryDirectory() as folder:
        modality, here = planned.card.modality, Path(folder)
        copies = tuple(_copy(clip, modality, here, snr, seed + i) for i, clip in enumerate(clips))
        there = tuple(clip for clip in copies if clip.has(modality))
        scratch = Store.create(Path(folder) / "store")
        scratch.clips.add(copies)
        keys = frozenset(clip.key for clip in there)
        extract(scratch, replace(planned, todo=there, missing=(keys,)))
        chosen = replace(inputs.chosen[name], space=planned.specs[0].name)
        if chosen.space not in scratch.features:  # not one clip could be extracted
            return removed(features, name)
        table = load_features(
            scratch, Inputs({name: chosen}, inputs.max_frames), features.keys, pooled=pooled
        ).tables[name]
    return replace(features, tables={**features.tables, name: table})


def _copy(clip: Clip, modality: Modality, folder: Path, snr: float, seed: int) -> Clip:
    """Return a clip whose medium is a noisy copy; one that lacks it, or cannot be read, stays as it is."""
    from mer_plugins.errors import ClipError

    source = getattr(clip, modality)
    if not source:
        return clip
    write, suffix = _WRITERS[modality]
    try:
        made = write(source, folder / f"{seed}.{suffix}", snr, seed)
    except ClipError:
        return clip  # the pipeline will say why
    if modality == "audio":
        return replace(clip, audio=str(made), content_hash="")
    return replace(clip, video=str(made), content_hash="")
