"""Training a head on stored rows of both views."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mer_zoo.alignment.head import Head, length_of
from mer_zoo.alignment.losses import PairLoss
from mer_zoo.alignment.retrieval import ahead
from mer_zoo.alignment.rows import View
from mer_zoo.alignment.settings import AlignSettings
from mer_zoo.training import Diverged

Told = Callable[[int, int], None]
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Views:
    """Both views of the clips that train and validate.

    Attributes:
        visual: Rows, standardised.
        acoustic: Rows, standardised.
        train: int64 `[n]`, numbers of the clips that train.
        valid: int64 `[m]`, of those that decide when to stop.
        content: int64 `[n + m]`, equal for copies.
    """

    visual: View
    acoustic: View
    train: Tensor
    valid: Tensor
    content: Tensor


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A trained head.

    Attributes:
        head: As it was in its best epoch, in evaluation mode, on the CPU.
        length: Factor that makes its output as long as acoustic rows.
        best: That epoch, from 0: none was better than the first weights.
        history: Per epoch `loss`, `ahead` (of the validation clips) and, for InfoNCE, `temperature`.
    """

    head: Head
    length: float
    best: int
    history: tuple[dict[str, Any], ...]


def numbered(values: Sequence[str]) -> Tensor:
    """Return equal numbers for equal texts, and a number of its own for each empty one."""
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(value or f"\0{i}", i) for i, value in enumerate(values)])


def fit_head(
    views: Views, settings: AlignSettings, *, device: torch.device | str = "cpu", told: Told | None = None
) -> FittedHead:
    """Train a head until the validation clips' order does not get better any more.

    What is watched is `ahead`, the mean share of other clips' voices that a clip's own is nearer than: it is
    smooth on few clips and means the same for every loss.

    Args:
        views: The rows.
        settings: Of training.
        device: Where to train.
        told: Called with epochs done, of how many.

    Raises:
        Diverged: The loss became infinite or NaN.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        head = Head(
            views.visual.width, views.acoustic.width, hidden=settings.hidden, dropout=settings.dropout
        )
        return _fit(head.to(device), views, settings, device, told or (lambda _done, _total: None))


def _fit(head: Head, views: Views, settings: AlignSettings, device: torch.device, told: Told) -> FittedHead:
    loss = PairLoss(settings.loss, settings.temperature).to(device)
    groups = [
        {"params": head.parameters(), "weight_decay": settings.weight_decay},
        {"params": loss.parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr)
    order = torch.Generator().manual_seed(settings.seed)
    best, state = _watch(head, views, device), _state(head)
    at, history = 0, list[dict[str, Any]]()
    for epoch in range(1, settings.epochs + 1):
        mean = _epoch(head, loss, views, optimizer, settings.batch_size, order, device)
        if not math.isfinite(mean):
            raise Diverged(f"the loss became {mean} in epoch {epoch}", "lower --lr, or look at the features")
        now = _watch(head, views, device)
        warmth = {"temperature": loss.temperature} if settings.loss == "infonce" else {}
        history.append({"loss": mean, "ahead": now, **warmth})
        if now > best:
            best, at, state = now, epoch, _state(head)
        told(epoch, settings.epochs)
        if epoch - at >= settings.patience:
            break
    head.load_state_dict(state)
    head = head.cpu().eval()
    return FittedHead(head, _length(head, views, settings), at, tuple(history))


def _epoch(
    head: Head,
    loss: PairLoss,
    views: Views,
    optimizer: torch.optim.Optimizer,
    size: int,
    order: torch.Generator,
    device: torch.device,
) -> float:
    head.train()
    shuffled = views.train[torch.randperm(len(views.train), generator=order)]
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for index in torch.split(shuffled, size):
        if len(index) < 2 and len(shuffled) > 1:  # a lone clip has nothing to be told from
            continue
        given = head(views.visual.take(index).to(device))
        value = loss(given, views.acoustic.take(index).to(device), views.content[index].to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.detach().double() * len(index)
        count += len(index)
    return float(total) / count


def apply(head: Head, rows: View, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return the head's output `[n, D_out]` for clips by number, on the CPU."""
    head.eval()
    with torch.inference_mode():
        return torch.cat([head(rows.take(part).to(device)).cpu() for part in torch.split(index, _PIECE)])


def _watch(head: Head, views: Views, device: torch.device) -> float:
    some = views.valid[:_PIECE]  # in random order by fold; enough to tell epochs apart
    given = apply(head, views.visual, some, device)
    if not bool(given.isfinite().all()):
        raise Diverged("the head's output is no longer finite", "lower --lr, or look at the features")
    return ahead(given.numpy(), views.acoustic.take(some).numpy())


def _state(head: Head) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}


def _length(head: Head, views: Views, settings: AlignSettings) -> float:
    if settings.loss == "mse":  # its output is as long as it should be
        return 1.0
    some = views.train[:_PIECE]
    return length_of(apply(head, views.visual, some), views.acoustic.take(some))
