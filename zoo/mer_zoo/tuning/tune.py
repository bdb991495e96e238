"""Tuning an encoder on labelled clips: select, decode, train one adapter or one per fold, publish."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from mer_plugins.batches import out_of_memory
from mer_plugins.tunable import Tunable
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.planning import targets_of
from mer_zoo.settings import Settings
from mer_zoo.training import Diverged, Member, Targets, loss_targets
from mer_zoo.trainset import TrainSet
from mer_zoo.tuning.batches import Batches, in_order
from mer_zoo.tuning.media import Media
from mer_zoo.tuning.model import Head, Tuned
from mer_zoo.tuning.outcome import FACTS, PROBS, Job, Progress, facts_of, finish
from mer_zoo.tuning.parts import ALL, Part, check_classes, divide
from mer_zoo.tuning.publish import HEAD
from mer_zoo.tuning.result import TuneResult
from mer_zoo.tuning.selection import Selection, method_of, select
from mer_zoo.tuning.settings import TuneRequest, TuneSettings
from mer_zoo.tuning.trainer import check_device, fit, precision
from mer_zoo.tuning.work import CLIPS, Work, default_folder

if TYPE_CHECKING:
    from mer_featurestore import Store

MEMORY = 4 << 30


def tune(
    store: "Store",
    request: TuneRequest,
    *,
    memory: int = MEMORY,
    workers: int = 0,
    work: Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    command: str = "",
    message: str = "",
) -> TuneResult:
    """Tune an encoder and keep the adapter in the store.

    Human-labelled clips of the split, and every pseudo-labelled one that is not of `test`, train. With folds,
    fold k's adapter never sees the labels of fold k: not for gradients, and not for early stopping, which
    goes by fold k + 1. Clips whose media cannot be read are left out, with the reason in the result and in
    the card. Interrupted at any moment, the same call goes on where it was.

    Args:
        store: The store; it moves to the commit that adds the adapter.
        request: What to tune on what.
        memory: Bytes of decoded clips that may be kept; the others are decoded again every epoch.
        workers: Decoding threads; 0 takes one per core, at most 8.
        work: Folder for checkpoints; None takes one in the user's cache.
        restart: Begin anew, whatever is in that folder.
        progress: Told how far it is.
        command: For the journal.
        message: For the journal; by default what was tuned on what.

    Raises:
        NameTaken: There is an adapter of that name.
        UnknownName: No such plugin, label layer, probe, split, option …
        ZooError: What is asked makes no sense, the clips do not suffice, or it was begun otherwise.
        Diverged: A loss became infinite or NaN; nothing is published.
        PluginError: The encoder cannot be loaded or adapted.
    """
    began = time.monotonic()
    selection = select(store, request)
    device = find_device(request.options.device)
    check_device(device)
    precision(request.settings.precision, device)
    folder = Work(work or default_folder(store, request.name))
    with folder.held():
        resumed = folder.begin(selection.plan(), restart=restart)
        try:
            job = _prepare(selection, folder, device, progress or _silent, memory, workers)
            results = _train_all(job)
        except Diverged:
            folder.remove()  # the same again would diverge again, and other settings begin anew
            raise
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                raise _too_large(request) from error
            raise
        finally:
            selection.extractor.close()
        done = finish(store, job, results, command, message)
        folder.remove()
    return TuneResult(**done, resumed=resumed, seconds=time.monotonic() - began)


def _too_large(request: TuneRequest) -> ZooError:
    return ZooError(
        f"memory ran out with {request.settings.batch_size} clips in a forward pass",
        "use a smaller --batch-size with --accumulate, --gradient-checkpointing, --most, or --quantize",
    )


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def _prepare(
    selection: Selection, work: Work, device: torch.device, progress: Progress, memory: int, workers: int
) -> Job:
    """Load the base, decode the clips, leave out what cannot be read, divide the rest."""
    request, before = selection.request, selection.chosen
    progress("loading", 0, len(before.clips))
    tunable = Tunable.attach(
        selection.extractor,
        method_of(request.settings, selection.layers),
        seed=request.seed,
        quantize=request.settings.quantize.replace("none", ""),
        gradient_checkpointing=request.settings.gradient_checkpointing,
    )
    if request.settings.most is not None:
        tunable.max_cost = request.settings.most
    media = Media(selection.extractor, before.clips, memory=memory, workers=workers)
    media.read(lambda done, total: progress("decoding", done, total))
    usable = np.array([clip.key not in media.reasons for clip in before.clips], np.bool_)
    chosen = before.take(usable)
    check_classes(chosen, before.label.tolist(), media.reasons)
    media.only(usable)
    work.same(CLIPS, {"left_out": sorted(media.reasons)})
    parts = divide(
        chosen,
        folds=request.folds,
        all_data=request.all_data,
        seed=request.seed,
        group_by=request.group_by,
    )
    left_out = {**selection.left_out, **media.reasons}
    return Job(selection, work, device, progress, tunable, media, chosen, parts, left_out, tunable.counts)


def _train_all(job: Job) -> dict[str, Path]:
    """Train what is not finished yet; return each part's folder."""
    start = {name: tensor.detach().cpu().clone() for name, tensor in job.tunable.state().items()}
    found: dict[str, Path] = {}
    frozen: torch.Tensor | None = None
    for part in job.parts.parts:
        done = job.work.done(part.name)
        if done is None:
            job.tunable.load(start)
            frozen = _frozen(job) if frozen is None else frozen
            _train(job, part, frozen, _epochs_for_all(found) if part.name == ALL else None)
            done = job.work.done(part.name)
        found[part.name] = done or job.work.part(part.name)
    return found


def _frozen(job: Job) -> torch.Tensor:
    """Return the mean rows of every clip before anything is trained, float32 `[N, D]` on the CPU."""
    every, found = np.arange(len(job.chosen.clips)), {}
    job.tunable.net.eval()
    with torch.no_grad():
        for places, inputs in in_order(job.media, every, job.settings.batch_size):
            for place, rows in zip(places, job.tunable.rows(inputs), strict=True):
                found[place] = rows.mean(0).cpu() if len(rows) else rows.new_zeros(job.tunable.width).cpu()
            job.progress("frozen", len(found), len(every))
    return torch.stack([found[place] for place in every.tolist()])


def _epochs_for_all(folds: Mapping[str, Path]) -> int:
    """Return the median of the folds' best epochs, the upper one of two."""
    best = sorted(facts_of(folder)["best_epoch"] for folder in folds.values())
    return int(best[len(best) // 2])


def _train(job: Job, part: Part, frozen: torch.Tensor, stop_after: int | None) -> None:
    settings = job.settings
    target, weight = _targets(job.chosen, part, settings)
    batches = Batches(
        job.media,
        part.train,
        target,
        weight,
        size=settings.batch_size,
        seed=part.seed,
        trim=job.tunable.trimmed,
    )
    head = Head(job.tunable.width, len(job.chosen.classes), settings.pool, settings.head_dropout)
    head.begin(frozen[part.train], target[part.train], weight[part.train])
    scored = {name: rows for name, rows in (("valid", part.valid), ("held", part.held)) if len(rows)}
    with torch.no_grad():
        before = {name: head.eval().classify(frozen[rows]) for name, rows in scored.items()}
    trainer, epochs, best = fit(
        Tuned(job.tunable, head),
        batches,
        part.valid,
        job.chosen.label,
        settings,
        folder=job.work.part(part.name),
        device=job.device,
        stop_after=stop_after,
        tell=lambda done, total: job.progress(part.name, done, total),
    )
    with job.work.finishing(part.name) as folder:
        job.tunable.save(folder)
        save_file({name: t.cpu().contiguous() for name, t in head.state_dict().items()}, folder / HEAD)
        logits = {name: trainer.logits(rows) for name, rows in scored.items()}
        logits |= {f"{name}_before": found for name, found in before.items()}
        save_arrays({name: found.softmax(-1).numpy() for name, found in logits.items()}, folder / PROBS)
        (folder / FACTS).write_text(json.dumps({"best_epoch": best, "epochs": epochs}), "utf-8")


def _targets(chosen: TrainSet, part: Part, settings: TuneSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smoothed targets `[N, C]` and clip weights `[N]`, as all training of the zoo has them."""
    targets: Targets = targets_of(
        chosen, soft_labels=settings.soft_labels, confidence_weights=settings.confidence_weights
    )
    how = Settings(
        class_weights=settings.class_weights == "balanced", label_smoothing=settings.label_smoothing
    )
    nobody = torch.empty(0, dtype=torch.int64)
    return loss_targets(
        targets,
        Member(
            name=part.name, train=torch.from_numpy(part.train), valid=nobody, seed=part.seed, settings=how
        ),
    )
