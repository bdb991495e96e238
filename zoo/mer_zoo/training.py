"""Training: what a member is, what it learns from, its loss, and when it stops.

A *member* is one model to train: one fold of one seed of one setting. `mer_zoo.fit` trains them, in a loop or
as one stacked computation; what is here is the same for both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Output
from mer_zoo.data import Features
from mer_zoo.errors import ZooError
from mer_zoo.metrics import weighted_f1
from mer_zoo.prepared import Prepared, blank_statistics, fit_statistics
from mer_zoo.settings import Settings

Statistics = Mapping[str, tuple[Tensor, Tensor]]


class Diverged(ZooError):
    """The loss of a member is no longer finite."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What n clips should be.

    Attributes:
        probs: float32 `[n, C]`; one-hot for hard labels.
        weight: float32 `[n]`, how much each clip counts in the loss.
    """

    probs: Tensor
    weight: Tensor

    def to(self, device: torch.device | str) -> "Targets":
        """Return the same on a device."""
        return Targets(self.probs.to(device), self.weight.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model to train.

    Attributes:
        name: For messages and files, e.g. `fold-0`.
        train: int64 `[n]`, the clips it learns from.
        valid: int64 `[m]`, the clips that decide when it stops.
        seed: Decides initial weights, order and dropout.
        params: Of the model.
        settings: Of training.
        start: State dict of a `Prepared` module to begin with, standardisation included; None begins with
            random weights and standardises by the training part.
    """

    name: str
    train: Tensor
    valid: Tensor
    seed: int
    params: Mapping[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    start: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What members are trained on.

    Attributes:
        features: All clips.
        targets: Of the same clips.
        build: Makes a model from its parameters.
        standardise: Whether features are standardised by each member's training part.
        fitted: Statistics by training part: many members share one, and fitting takes a pass over the data.
    """

    features: Features
    targets: Targets
    build: Callable[[Mapping[str, Any]], nn.Module]
    standardise: bool = True
    fitted: dict[bytes, Statistics] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device | str) -> "Task":
        """Return the same on a device."""
        features, targets = self.features.to(device), self.targets.to(device)
        stays = targets.probs.device == self.targets.probs.device
        return Task(features, targets, self.build, self.standardise, self.fitted if stays else {})

    def module(self, member: Member) -> Prepared:
        """Build a member's model with its standardisation, as random draws or its start have it."""
        model, device = self.build(member.params), self.targets.probs.device
        if member.start is None:
            return Prepared(model.to(device), self._statistics(member.train))
        blank = blank_statistics(self.features.widths) if self.standardise else {}
        module = Prepared(model, blank).to(device)
        module.load_state_dict(member.start)
        return module

    def _statistics(self, train: Tensor) -> Statistics:
        if not self.standardise:
            return {}
        key = train.cpu().numpy().tobytes()
        if key not in self.fitted:
            self.fitted[key] = fit_statistics(self.features, train)
        # Copies: a module owns its buffers.
        return {name: (mean.clone(), scale.clone()) for name, (mean, scale) in self.fitted[key].items()}


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after every epoch of every member.

    Attributes:
        member: Its number.
        epoch: Epochs done by it.
        waf: Of its validation clips, after this epoch.
        done: Epochs done by all members; one that stopped early has done all of its own.
        total: Epochs of all members at most.
        loss: Of the training part, in this epoch.
        valid_loss: Of the validation part, after it.
    """

    member: int
    epoch: int
    waf: float
    done: int
    total: int
    loss: float
    valid_loss: float


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class Fitted:
    """A trained member at its best epoch.

    Attributes:
        state: State dict of its `Prepared` module, on the CPU.
        logits: float32 `[m, C]` of its validation clips.
        best_epoch: From 1.
        history: Per epoch: `epoch`, `loss`, `valid_loss`, `waf`.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, float] = (-1.0, -math.inf)
    waited: int = 0

    def note(self, epoch: int, loss: float, valid_loss: float, waf: float) -> bool:
        """Record an epoch; say whether it is the best so far (highest WAF, then lowest validation loss).

        Patience counts epochs without a higher WAF, so that a loss creeping down alone does not prolong
        training.
        """
        self.history.append({"epoch": epoch, "loss": loss, "valid_loss": valid_loss, "waf": waf})
        self.waited = 0 if waf > self.best[0] else self.waited + 1
        better = (waf, -valid_loss) > self.best
        if better:
            self.best, self.best_epoch = (waf, -valid_loss), epoch
        return better

    def is_finished(self, settings: Settings) -> bool:
        """Say whether the member has had all its epochs or its patience is over."""
        return len(self.history) >= settings.epochs or self.waited >= settings.patience


class Tracker:
    """Counts epochs over all members and tells the callback.

    Args:
        members: All of them.
        progress: Called after each epoch.
    """

    def __init__(self, members: Sequence[Member], progress: ProgressCallback | None) -> None:
        self.most = [member.settings.epochs for member in members]
        self.done = [0] * len(members)
        self.progress = progress

    def __call__(self, member: int, fitted: "Fitted", finished: bool) -> None:
        """Note the last epoch of a member."""
        self.done[member] = self.most[member] if finished else len(fitted.history)
        if self.progress is not None:
            last, done, total = fitted.history[-1], sum(self.done), sum(self.most)
            self.progress(
                Progress(
                    member,
                    len(fitted.history),
                    last["waf"],
                    done,
                    total,
                    last["loss"],
                    last["valid_loss"],
                )
            )


def epoch_batches(train: Tensor, batch_size: int, order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffle the training clips into batches of one size.

    The last batch is filled up with clips from the front, which count nothing there.

    Returns:
        Clips int64 `[S, B]`, and what each counts, float32 `[S, B]`, 1 or 0.
    """
    n = len(train)
    steps = -(-n // batch_size)
    place = torch.arange(steps * batch_size)
    shuffled = train[torch.randperm(n, generator=order)][place % n]
    return shuffled.view(steps, batch_size), (place < n).float().view(steps, batch_size)


def loss_targets(targets: Targets, member: Member) -> tuple[Tensor, Tensor]:
    """Return smoothed target probabilities `[n, C]` and clip weights `[n]` as a member's loss sees them."""
    return weighed(targets, class_shares(targets, member), member.settings.label_smoothing)


def class_shares(targets: Targets, member: Member) -> Tensor:
    """Return what a clip of each class counts, `[C]`: 1.

    With class weights, a class counts inversely to its mass in the training part (mean weight 1).
    """
    if not member.settings.class_weights:
        return torch.ones_like(targets.probs[0])
    mass = targets.probs[member.train.to(targets.probs.device)].sum(0)
    return torch.where(mass > 0, mass.sum() / ((mass > 0).sum() * mass.clamp(min=1e-9)), 0.0)


def weighed(targets: Targets, share: Tensor, smoothing: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return smoothed targets and clip weights; `share` and `smoothing` broadcast against the targets."""
    weight = targets.weight * (targets.probs * share).sum(-1)
    return targets.probs * (1 - smoothing) + smoothing / targets.probs.shape[-1], weight


def products(settings: Settings, device: torch.device) -> torch.autocast:
    """Return the context in which matrix products have the precision of the settings."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def loss_of(output: Output, target: Tensor, weight: Tensor) -> Tensor:
    """Mean cross-entropy of soft targets `[B, C]` weighted by clip `[B]`, plus the model's own losses.

    Of stacked members, `[M, B, C]` and `[M, B]`, it is `[M]`.
    """
    entropy = (target * F.log_softmax(output.logits.float(), -1)).sum(-1)
    loss = -(entropy * weight).sum(-1) / weight.sum(-1).clamp(min=1e-9)
    for extra in output.losses.values():
        loss = loss + extra
    return loss


def validate(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and WAF of logits `[m, C]` against targets `[m, C]`."""
    classes = logits.shape[1]
    pairs = (target.argmax(1) * classes + logits.argmax(1)).cpu().numpy()
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return float(F.cross_entropy(logits, target)), float(weighted_f1(confusion))


def check_finite(loss: float, member: Member, epoch: int) -> None:
    """Raise `Diverged` when a loss is not finite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss of {member.name} became {loss} in epoch {epoch}",
            f"lower --lr (now {member.settings.lr:g}), or look for extreme values in the features",
        )
