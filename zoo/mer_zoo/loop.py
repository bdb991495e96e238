"""Training members one by one: the plain reference, and the way for models that cannot be stacked."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mer_zoo.models.blocks import noise_from
from mer_zoo.prepared import logits_of
from mer_zoo.training import (
    Fitted,
    Member,
    Task,
    check_finite,
    epoch_batches,
    loss_of,
    loss_targets,
    products,
    validate,
)


def fit_one(task: Task, member: Member, track: Callable[[Fitted, bool], None]) -> Fitted:
    """Train one member.

    Args:
        task: What it is trained on, already on the device.
        member: The member.
        track: Told after each epoch, with whether it was the last.

    Raises:
        Diverged: Its loss became infinite or NaN.
    """
    device, settings = task.targets.probs.device, member.settings
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, noise_from(np.random.SFC64(member.seed)):
        torch.manual_seed(member.seed)
        module = task.module(member)
        order = torch.Generator().manual_seed(member.seed)
        target, weight = loss_targets(task.targets, member)
        optimizer = torch.optim.Adam(
            module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        fitted, valid = Fitted(), member.valid.to(device)
        while not fitted.is_finished(settings):
            epoch = len(fitted.history) + 1
            loss = _train_epoch(task, module, optimizer, member, order, (target, weight))
            check_finite(loss, member, epoch)
            logits = logits_of(module, task.features, valid)
            if fitted.note(epoch, loss, *validate(logits, task.targets.probs[valid])):
                fitted.state = {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}
                fitted.logits = logits.cpu()
            track(fitted, fitted.is_finished(settings))
    return fitted


def _train_epoch(
    task: Task,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    member: Member,
    order: torch.Generator,
    targets: tuple[Tensor, Tensor],
) -> float:
    module.train()
    target, weight = targets
    total = torch.zeros((), device=weight.device)
    index, real = epoch_batches(member.train, member.settings.batch_size, order)
    for at, counts in zip(index.to(weight.device), real.to(weight.device), strict=True):
        with products(member.settings, weight.device):
            output = module(task.features.batch(at))
        loss = loss_of(output, target[at], weight[at] * counts)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        optimizer.step()
        total += loss.detach()
    return float(total) / len(index)
