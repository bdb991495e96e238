"""Training members of equal shape as one computation: one forward pass serves the whole stack.

`torch.func.vmap` maps the model over the stack, unless the model takes stacks by itself. Each parameter of
all members lies in one tensor `[M, …]`, so that one fused Adam step updates everything, each member with its
own learning rate, weight decay and step count. A member that has stopped leaves the stack.

What took the time, and why the code is as it is: the gradient of a stacked weight comes out of the batched
product as `[M, in, out]`, so weights lie that way too (turning `[M, 128, 5120]` around takes longer than the
product); cutting parameters out of one flat tensor would join the gradients by a copy; passes over the
features are bound by memory, so that each is done once, in place, outside of the model; large temporaries
cost page faults, so that validation goes in small batches.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F

from mer_featurestore.records import canonical_json
from mer_zoo.contract import Output, Sequences
from mer_zoo.models.blocks import padding_is_zero
from mer_zoo.prepared import Prepared, standardise_
from mer_zoo.stacked_adam import StackedAdam
from mer_zoo.stacked_noise import Noise
from mer_zoo.training import (
    Fitted,
    Member,
    Targets,
    Task,
    check_finite,
    class_shares,
    epoch_batches,
    loss_of,
    products,
    validate,
    weighed,
)

Track = Callable[[Fitted, bool], None]
MOST = 512  # members of one stack
_VALID_ROWS, _LEAST_VALID = 1024, 32  # clips of all members, and of each at least, in one validation batch
_MATRICES = 3  # axes of a stack of matrices


def stacks(task: Task, members: Sequence[Member]) -> list[list[int]]:
    """Divide members into groups that can train as one; a member on its own is a group of one.

    Members of a group have the same parameters (but for dropout rates), batch size and loss. Models with
    random layers other than our `Dropout`, or with operations that vmap does not know (an LSTM), are not
    stacked.
    """
    groups: dict[bytes, list[int]] = {}
    for i, member in enumerate(members):
        params = {name: value for name, value in member.params.items() if name != "dropout"}
        # A rate of zero draws no noise, so such members cannot share a stack's noise with others.
        settings = member.settings
        noisy = member.params.get("dropout") != 0
        key = canonical_json([params, noisy, settings.batch_size, settings.precision])
        groups.setdefault(key, []).append(i)
    found = []
    for group in groups.values():
        if len(group) > 1 and can_stack(task, [members[i] for i in group]):
            found += [group[first : first + MOST] for first in range(0, len(group), MOST)]
        else:
            found += [[i] for i in group]
    return found


def can_stack(task: Task, members: Sequence[Member]) -> bool:
    """Try one step of two members; say whether it works without slow paths and without foreign randomness."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop", UserWarning)
        try:
            Stack(task, members[:2]).first_losses()
        except Exception:  # noqa: BLE001 - whatever fails here trains in the loop, or fails there and is told
            return False
    return True


def fit_stack(task: Task, members: Sequence[Member], tracks: Sequence[Track]) -> list[Fitted]:
    """Train members as one computation.

    Args:
        task: What they are trained on, already on the device.
        members: Members that `stacks` put together.
        tracks: Told after each epoch of each member, with whether it was its last.

    Raises:
        Diverged: The loss of one became infinite or NaN.
    """
    fitted = [Fitted() for _ in members]
    # Neighbours that take the same steps share one of the optimizer's.
    alive = sorted(range(len(members)), key=lambda i: _pace(members[i]))
    stack = Stack(task, [members[i] for i in alive])
    while alive:
        losses = stack.train_epoch()
        logits = stack.validation_logits()
        for row, i in enumerate(alive):
            epoch = len(fitted[i].history) + 1
            check_finite(losses[row], members[i], epoch)
            target = task.targets.probs[members[i].valid.to(logits[row].device)]
            if fitted[i].note(epoch, losses[row], *validate(logits[row], target)):
                fitted[i].state, fitted[i].logits = stack.state(row), logits[row].cpu()
            tracks[i](fitted[i], fitted[i].is_finished(members[i].settings))
        stay = [row for row, i in enumerate(alive) if not fitted[i].is_finished(members[i].settings)]
        if len(stay) < len(alive):
            stack.keep(stay)
            alive = [alive[row] for row in stay]
    return fitted


def _pace(member: Member) -> tuple[float, float, int]:
    settings = member.settings
    return settings.lr, settings.weight_decay, -(-len(member.train) // settings.batch_size)


class Stack:
    """M members of equal shape.

    A model with an attribute `stacks` that is true is called with stacked parameters `[M, …]` and batches
    `[M, B, T, D]` as it is (see `mer_zoo.models.blocks.Linear`), which saves what mapping costs: for small
    models about a third of a step. Any other is mapped over the stack.

    Args:
        task: What they are trained on, already on the device.
        members: The members.

    Raises:
        UnstackableError: The model has random layers other than our own.
    """

    def __init__(self, task: Task, members: Sequence[Member]) -> None:
        self.task, self.members = task, list(members)
        self.device = task.targets.probs.device
        prepared = [self._build(member) for member in self.members]
        models = [each.model for each in prepared]
        self.model, self.noise = models[0], Noise(models, [m.seed for m in members], self.device)
        self.stacks = bool(getattr(self.model, "stacks", False))
        self.leaves = {
            name: torch.stack([_turned(model.get_parameter(name).detach()) for model in models])
            for name, _ in self.model.named_parameters()
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        settings = [member.settings for member in self.members]
        self.optimizer = StackedAdam(list(self.leaves.values()), settings)
        names = [name for name, _ in self.model.named_buffers() if not name.endswith("multiplier")]
        self.buffers = {name: torch.stack([model.get_buffer(name) for model in models]) for name in names}
        self.stored = [name for name in self.model.state_dict() if name in self.buffers]
        self.statistics = {
            name: (
                torch.stack([each.get_buffer(f"mean_{name}") for each in prepared])[:, None, None],
                torch.stack([each.get_buffer(f"scale_{name}") for each in prepared])[:, None, None],
            )
            for name in prepared[0].standardised
        }
        self.orders = [torch.Generator().manual_seed(member.seed) for member in self.members]
        self.shares = torch.stack([class_shares(task.targets, member) for member in self.members])
        self.smoothing = torch.tensor([each.label_smoothing for each in settings], device=self.device)
        self.valid = _padded([member.valid for member in self.members]).to(self.device)

    def losses(self, at: Tensor, counts: Tensor, active: Sequence[bool]) -> Tensor:
        """Return each member's loss, `[M]`.

        Args:
            at: Clips, int64 `[M, B]`.
            counts: What each counts, `[M, B]`.
            active: Whether each member takes part; the loss of one that does not is 0.
        """
        seen = Targets(self.task.targets.probs[at], self.task.targets.weight[at])
        target, weight = weighed(seen, self.shares[:, None], self.smoothing[:, None, None])
        batch = self._batch(at)
        buffers = {**self.buffers, **self.noise.draw(batch, active)}
        with padding_is_zero(), products(self.members[0].settings, self.device):
            losses = self._mapped(self._loss)(self._parameters(), buffers, batch, target, weight * counts)
        return losses if all(active) else torch.where(torch.tensor(active, device=self.device), losses, 0.0)

    def first_losses(self) -> Tensor:
        """Return each member's loss, `[M]`, over its first clips, in the order they are given."""
        size = self.members[0].settings.batch_size
        at = torch.stack([member.train[torch.arange(size) % len(member.train)] for member in self.members])
        at = at.to(self.device)
        return self.losses(at, torch.ones(at.shape, device=self.device), [True] * len(at))

    def train_epoch(self) -> list[float]:
        """Take every member through its training clips once; return the mean loss of each."""
        index, counts, steps = self._plan()
        total = torch.zeros(len(steps), device=self.device)
        self.model.train()
        for step in range(max(steps)):
            active = [step < own for own in steps]
            losses = self.losses(index[step], counts[step], active)
            self._step(losses, active)
            total += losses.detach()
        means: list[float] = (total / torch.tensor(steps, device=self.device)).tolist()
        return means

    @torch.no_grad()
    def validation_logits(self) -> list[Tensor]:
        """Return logits `[m, C]` of each member's validation clips."""
        self.model.eval()
        logits_of = self._mapped(self._logits)
        size = max(_LEAST_VALID, _VALID_ROWS // len(self.members))
        with padding_is_zero():
            parts = [
                logits_of(self._parameters(), self.buffers, self._batch(at))
                for at in torch.split(self.valid, size, dim=1)
            ]
        logits = torch.cat(parts, 1)
        return [logits[row, : len(member.valid)] for row, member in enumerate(self.members)]

    def state(self, row: int) -> dict[str, Tensor]:
        """Return the state dict of a member's `Prepared` module, copied to the CPU."""
        parameters = {
            f"model.{name}": _turned(leaf.detach()[row]).cpu().clone(memory_format=torch.contiguous_format)
            for name, leaf in self.leaves.items()
        }
        buffers = {f"model.{name}": self.buffers[name][row].cpu().clone() for name in self.stored}
        statistics = {
            f"{kind}_{name}": values[row].flatten().cpu().clone()
            for name, both in self.statistics.items()
            for kind, values in zip(("mean", "scale"), both, strict=True)
        }
        return {**statistics, **parameters, **buffers}

    def keep(self, rows: Sequence[int]) -> None:
        """Let all but these members leave."""
        if not rows:
            return
        at = torch.tensor(rows, device=self.device)
        self.leaves = {name: leaf.detach()[at].requires_grad_() for name, leaf in self.leaves.items()}
        self.optimizer.keep(rows, list(self.leaves.values()))
        self.noise.keep(rows)
        self.buffers = {name: buffer[at] for name, buffer in self.buffers.items()}
        self.statistics = {name: (mean[at], scale[at]) for name, (mean, scale) in self.statistics.items()}
        for name in ("shares", "smoothing", "valid"):
            setattr(self, name, getattr(self, name)[at])
        for name in ("members", "orders"):
            setattr(self, name, [getattr(self, name)[row] for row in rows])

    def _build(self, member: Member) -> Prepared:
        """Build a member's module as the loop does."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(member.seed)
            return self.task.module(member)

    def _plan(self) -> tuple[Tensor, Tensor, list[int]]:
        """Shuffle every member's clips; return them and what they count, `[S, M, B]`, and steps per member.

        A member that has no batch left is given its first one again, which counts nothing.
        """
        plans = [
            epoch_batches(member.train, member.settings.batch_size, order)
            for member, order in zip(self.members, self.orders, strict=True)
        ]
        steps = [len(index) for index, _ in plans]
        index = _padded([index for index, _ in plans]).transpose(0, 1)
        missing = [max(steps) - own for own in steps]
        counts = [F.pad(real, (0, 0, 0, less)) for (_, real), less in zip(plans, missing, strict=True)]
        return index.to(self.device), torch.stack(counts, 1).to(self.device), steps

    def _batch(self, at: Tensor) -> dict[str, Sequences]:
        """Return clips `[M, B]` as batches of the members, standardised by each; padding is zero."""
        batch = self.task.features.batch(at)
        for name, (mean, scale) in self.statistics.items():
            standardise_(batch[name], mean, scale)
        return batch

    def _step(self, losses: Tensor, active: Sequence[bool]) -> None:
        gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()), allow_unused=True)
        self.optimizer.step(gradients, active)

    def _parameters(self) -> dict[str, Tensor]:
        if self.stacks:  # its `Linear` takes them turned
            return self.leaves
        return {name: leaf.mT if leaf.dim() == _MATRICES else leaf for name, leaf in self.leaves.items()}

    def _mapped(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Map over the stack, where the model does not by itself."""
        return function if self.stacks else vmap(function, randomness="error")

    def _call(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: dict[str, Sequences]
    ) -> Output:
        out: Output = functional_call(self.model, (parameters, buffers), (batch,), tie_weights=False)
        return out

    def _logits(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: dict[str, Sequences]
    ) -> Tensor:
        logits: Tensor = self._call(parameters, buffers, batch).logits
        return logits

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: dict[str, Sequences],
        target: Tensor,
        weight: Tensor,
    ) -> Tensor:
        return loss_of(self._call(parameters, buffers, batch), target, weight)


def _turned(parameter: Tensor) -> Tensor:
    """Turn a matrix around; it lies in a stack as its gradient comes."""
    return parameter.T if parameter.dim() == _MATRICES - 1 else parameter


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Stack indices of unequal number, filled up with each one's first."""
    longest = max(len(part) for part in parts)
    return torch.stack(
        [torch.cat([part, part[:1].expand(longest - len(part), *part.shape[1:])]) for part in parts]
    )
