"""transformers' Trainer on clips: its loop, schedule, precision and checkpoints; our batches and scores.

A checkpoint holds the adapter, the head, and the state of optimiser, schedule and random generators, never
the base. It stays on this machine; weights are safetensors, and what Trainer itself pickles it reads back
with `weights_only`.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mer_plugins.checkpoints import quiet
from mer_zoo.bootstrap import scores_of
from mer_zoo.contract import Output
from mer_zoo.errors import ZooError
from mer_zoo.training import Diverged, loss_of
from mer_zoo.tuning.batches import Batches, in_order
from mer_zoo.tuning.history import STATE, TIES, Epochs, best, epochs_of, is_over, last_checkpoint, waited
from mer_zoo.tuning.model import Tuned, kept_random
from mer_zoo.tuning.settings import TuneSettings

_WEIGHTS = "model.safetensors"
Tell = Callable[[int, int], None]


class ClipTrainer(Trainer):
    """Trains one adapter.

    Args:
        model: The encoder with its head.
        args: Trainer's.
        batches: What it learns from.
        valid: int64 `[m]`, places of the clips that decide when it stops; may be none.
        label: int64 `[N]`, by place.
        settings: Of tuning.
        stop_after: Epochs; None stops by patience.
        tell: Called with steps done and in all.
    """

    def __init__(
        self,
        model: Tuned,
        args: TrainingArguments,
        batches: Batches,
        valid: NDArray[np.int64],
        label: NDArray[np.int64],
        settings: TuneSettings,
        stop_after: int | None,
        tell: Tell | None,
    ) -> None:
        self.tuned, self.batches, self.settings = model, batches, settings
        self.valid, self.label = valid, label
        groups = model.groups(settings.rate, settings.head_lr)
        optimizer = torch.optim.AdamW(groups, lr=settings.rate, weight_decay=settings.weight_decay)
        callback = _Watch(settings.patience, stop_after, tell)
        super().__init__(
            model=model,
            args=args,
            train_dataset=batches,  # only its length is looked at
            eval_dataset=batches if len(valid) else None,  # as above
            callbacks=[callback],
            optimizers=(optimizer, None),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> Any:
        """Return the batches; Trainer asks them for their length and tells them the epoch."""
        return self.batches

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - Trainer's signature
    ) -> Any:
        """Return the mean cross-entropy of soft targets, weighted by clip.

        Raises:
            Diverged: It is not finite.
        """
        logits = model(inputs["inputs"]).float()
        loss = loss_of(Output(logits), inputs["target"].to(logits.device), inputs["weight"].to(logits.device))
        self._check(float(loss.detach()), "loss")
        loss = loss.to(self.args.device)
        return (loss, logits) if return_outputs else loss

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"the {what} became {value} at step {self.state.global_step + 1} "
                f"(learning rate {self.settings.rate:g}, head {self.settings.head_lr:g})",
                "nothing was kept; use a lower --lr, or --precision float32",
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the validation clips, whole and without dropout.

        Raises:
            Diverged: The loss is not finite.
        """
        logits = self.logits(self.valid)
        label = torch.from_numpy(self.label[self.valid])
        loss = float(F.cross_entropy(logits, label))
        self._check(loss, "validation loss")
        classes = logits.shape[1]
        pairs = (label * classes + logits.argmax(1)).numpy()
        counted = scores_of(np.bincount(pairs, minlength=classes**2).reshape(classes, classes))
        found = {name: float(counted[name]) for name in ("uar", "waf")}
        choice = found[self.settings.metric] - TIES * loss / (1 + loss)
        metrics = {f"eval_{k}": v for k, v in {**found, "loss": loss, "choice": choice}.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def logits(self, rows: NDArray[np.int64]) -> Tensor:
        """Return float32 `[len(rows), C]` on the CPU, without dropout."""
        found: dict[int, Tensor] = {}
        self.tuned.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for places, inputs in in_order(self.batches.media, rows, self.settings.batch_size):
                found |= dict(zip(places, self.tuned(inputs).float().cpu(), strict=True))
        return torch.stack([found[i] for i in rows.tolist()])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write adapter and head; Trainer's own would also pickle its arguments."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_dict or self.tuned.state_dict(), folder / _WEIGHTS, metadata={"format": "pt"})


class _Watch(TrainerCallback):
    """Stops in time and tells how far it is; what it knows is in Trainer's log, which resuming reads."""

    def __init__(self, patience: int, stop_after: int | None, tell: Tell | None) -> None:
        self.patience, self.stop_after, self.tell = patience, stop_after, tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        if self.tell is not None:
            share = 1.0 if self.stop_after is None else self.stop_after / args.num_train_epochs
            self.tell(state.global_step, round(state.max_steps * share))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - as above
        if waited(epochs_of(state.log_history)) >= self.patience:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        if self.stop_after is not None and round(state.epoch) >= self.stop_after:
            control.should_training_stop = True


def fit(
    model: Tuned,
    batches: Batches,
    valid: NDArray[np.int64],
    label: NDArray[np.int64],
    settings: TuneSettings,
    *,
    folder: Path,
    device: torch.device,
    stop_after: int | None = None,
    tell: Tell | None = None,
) -> tuple[ClipTrainer, Epochs, int]:
    """Train one adapter, or go on with one; the model ends with the weights of its best epoch.

    Args:
        model: As it begins.
        batches: What it learns from.
        valid: int64 `[m]`, places of the clips that decide when it stops.
        label: int64 `[N]`, by place.
        settings: Of tuning.
        folder: Of the checkpoints; what a killed training left there is gone on with.
        device: Where the model is.
        stop_after: Epochs to train, in the schedule of `settings.epochs`; None stops by `valid`.
        tell: Called with steps done and in all.

    Returns:
        The trainer, for its `logits`; per epoch `loss`, and `uar`, `waf`, `valid_loss` where there is
        validation; and the best epoch, from 1 (the last without validation).

    Raises:
        Diverged: A loss is not finite.
    """
    with _undisturbed():
        args = _arguments(folder, batches, settings, device, validated=bool(len(valid)))
        trainer = ClipTrainer(model, args, batches, valid, label, settings, stop_after, tell)
        last = last_checkpoint(folder)
        state = json.loads((last / STATE).read_text("utf-8")) if last else None
        if last is not None and state is not None and is_over(state, settings, stop_after):
            chosen = Path(state["best_model_checkpoint"] or last).name
            model.load_state_dict(load_file(folder / chosen / _WEIGHTS))
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            state = {"log_history": trainer.state.log_history}
    epochs = epochs_of(state["log_history"])
    return trainer, epochs, best(epochs) if len(valid) else len(epochs)


def _arguments(
    folder: Path, batches: Batches, settings: TuneSettings, device: torch.device, *, validated: bool
) -> TrainingArguments:
    steps = settings.epochs * math.ceil(len(batches) / settings.accumulate)
    said: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "lr_scheduler_type": "linear",
        "warmup_steps": int(settings.warmup * steps),
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "seed": batches.seed % 2**32,
        **precision(settings.precision, device),
    }
    if validated:
        said |= {"eval_strategy": "epoch", "load_best_model_at_end": True}
        said |= {"metric_for_best_model": "choice", "greater_is_better": True}
    args = TrainingArguments(**said)
    args._n_gpu = min(1, args.n_gpu)  # noqa: SLF001 - else it would copy the model to every GPU there is
    return args


def precision(wanted: str, device: torch.device) -> dict[str, bool]:
    """Return what Trainer is told of mixed precision.

    Raises:
        ZooError: Float16 on a CPU.
    """
    if wanted == "auto":
        if device.type != "cuda":
            return {}
        wanted = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if wanted == "float16" and device.type == "cpu":
        raise ZooError("a CPU does not train in float16", "use --precision bfloat16, float32 or auto")
    return {"bf16": wanted == "bfloat16", "fp16": wanted == "float16"}


def check_device(device: torch.device) -> None:
    """Refuse a GPU that Trainer would not take.

    Raises:
        ZooError: It is not the first one this process sees.
    """
    if device.index:
        raise ZooError(
            f"training runs on the first GPU it sees, not on {device}",
            f"say CUDA_VISIBLE_DEVICES={device.index} mer-zoo tune … --device cuda",
        )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the process as it was: Trainer seeds every random generator there is."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is what Trainer seeds
    with kept_random(), quiet():
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002 - as above
