"""Training members of equal shape as one computation: one forward pass serves the whole stack.

`torch.func.vmap` maps the model over the stack. Each parameter of all members lies in one tensor `[M, …]`, so
that one fused Adam step updates everything, each member with its own learning rate, weight decay and step
count. A member that has stopped leaves the stack.

What took the time, and why the code is as it is: the gradient of a stacked weight comes out of the batched
product as `[M, in, out]`, so weights lie that way too (turning `[M, 128, 5120]` around takes longer than the
product); cutting parameters out of one flat tensor would join the gradients by a copy; large temporaries cost
page faults, so that validation goes in small batches.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mer_featurestore.records import canonical_json
from mer_zoo.contract import Output, Sequences
from mer_zoo.models.blocks import Dropout
from mer_zoo.prepared import Prepared
from mer_zoo.stacked_adam import StackedAdam
from mer_zoo.training import (
    Fitted,
    Member,
    Task,
    check_finite,
    epoch_batches,
    loss_of,
    loss_targets,
    validate,
)

Track = Callable[[Fitted, bool], None]
MOST = 512  # members of one stack
_VALID_ROWS, _LEAST_VALID = 1024, 32  # clips of all members, and of each at least, in one validation batch
_MATRICES = 3  # axes of a stack of matrices
_WORD = 4  # int16 values in one int64 of noise


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
        key = canonical_json([params, member.params.get("dropout") == 0, member.settings.batch_size])
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
            stack = Stack(task, members[:2])
            stack.losses([member.train[: member.settings.batch_size] for member in stack.members])
        except Exception:  # noqa: BLE001 - whatever fails here trains in the loop, or fails there and is told
            return False
    return True


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the noise of each dropout lies in one row of noise, for batches of one shape.

    Attributes:
        shapes: What each dropout is given, in the order of the calls.
        words: 64-bit words of noise each takes.
        threshold: int16 `[M, 4·Σwords]`: noise below drops.
        scale: float32, likewise: what is kept is multiplied with.
    """

    shapes: dict[str, torch.Size]
    words: list[int]
    threshold: Tensor
    scale: Tensor


class UnstackableError(Exception):
    """A model whose members cannot share one computation."""


def fit_stack(task: Task, members: Sequence[Member], tracks: Sequence[Track]) -> list[Fitted]:
    """Train members as one computation.

    Args:
        task: What they are trained on, already on the device.
        members: Members that `stacks` put together.
        tracks: Told after each epoch of each member, with whether it was its last.

    Raises:
        Diverged: The loss of one became infinite or NaN.
    """
    stack = Stack(task, members)
    fitted = [Fitted() for _ in members]
    alive = list(range(len(members)))
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


class Stack:
    """M members of equal shape.

    Args:
        task: What they are trained on, already on the device.
        members: The members.

    Raises:
        UnstackableError: The model has random layers other than our own.
    """

    def __init__(self, task: Task, members: Sequence[Member]) -> None:
        self.task, self.members = task, list(members)
        self.device = task.targets.probs.device
        modules, self.generators = self._build()
        self.module = modules[0]
        self._check()
        parameters = [dict(module.named_parameters()) for module in modules]
        self.leaves = {
            name: torch.stack([_turned(ps[name].detach()) for ps in parameters]).requires_grad_()
            for name in parameters[0]
        }
        settings = [member.settings for member in self.members]
        self.optimizer = StackedAdam(list(self.leaves.values()), settings)
        buffers = [dict(module.named_buffers()) for module in modules]
        names = [name for name in buffers[0] if not name.endswith("multiplier")]
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in names}
        self.stored = [name for name in self.module.state_dict() if name in self.buffers]
        self.dropouts = [_dropouts(module) for module in modules]
        self.orders = [torch.Generator().manual_seed(member.seed) for member in self.members]
        self.targets = [loss_targets(task.targets, member) for member in self.members]
        self.valid = _padded([member.valid for member in self.members]).to(self.device)
        self.layouts: dict[tuple[int, ...], Layout] = {}

    def losses(self, index: Sequence[Tensor], real: Sequence[Tensor] | None = None) -> Tensor:
        """Return each member's loss, `[M]`, over its clips `index`; one without clips has the loss 0.

        Args:
            index: Clips per member, all of one number or none.
            real: What each counts; None for 1.
        """
        full = next(part for part in index if len(part))
        at = torch.stack([part if len(part) else full for part in index])
        count = torch.stack(
            [
                torch.zeros(len(full))
                if not len(part)
                else torch.ones(len(full))
                if real is None
                else real[row]
                for row, part in enumerate(index)
            ]
        ).to(self.device)
        active = torch.tensor([len(part) > 0 for part in index], device=self.device)
        at = at.to(self.device)
        target = torch.stack([t[0][i] for t, i in zip(self.targets, at, strict=True)])
        weight = torch.stack([t[1][i] for t, i in zip(self.targets, at, strict=True)]) * count
        batch = self.task.features.batch(at)
        buffers = {**self.buffers, **self._noise(batch, active.tolist())}
        losses = vmap(self._loss, randomness="error")(self._parameters(), buffers, batch, target, weight)
        return torch.where(active, losses, 0.0)

    def train_epoch(self) -> list[float]:
        """Take every member through its training clips once; return the mean loss of each."""
        plans = [
            epoch_batches(member.train, member.settings.batch_size, order)
            for member, order in zip(self.members, self.orders, strict=True)
        ]
        total = torch.zeros(len(self.members), device=self.device)
        self.module.train()
        for step in range(max(len(index) for index, _ in plans)):
            nothing = torch.empty(0, dtype=torch.int64)
            index = [index[step] if step < len(index) else nothing for index, _ in plans]
            real = [real[step] if step < len(real) else nothing for _, real in plans]
            losses = self.losses(index, real)
            self._step(losses, [len(part) > 0 for part in index])
            total += losses.detach()
        steps = torch.tensor([len(index) for index, _ in plans], device=self.device)
        means: list[float] = (total / steps).tolist()
        return means

    @torch.no_grad()
    def validation_logits(self) -> list[Tensor]:
        """Return logits `[m, C]` of each member's validation clips."""
        self.module.eval()
        parts = []
        size = max(_LEAST_VALID, _VALID_ROWS // len(self.members))
        for at in torch.split(self.valid, size, dim=1):
            batch = self.task.features.batch(at)
            parts.append(vmap(self._logits)(self._parameters(), self.buffers, batch))
        logits = torch.cat(parts, 1)
        return [logits[row, : len(member.valid)] for row, member in enumerate(self.members)]

    def state(self, row: int) -> dict[str, Tensor]:
        """Return a member's state dict, copied to the CPU."""
        parameters = {
            name: _turned(leaf.detach()[row]).cpu().clone(memory_format=torch.contiguous_format)
            for name, leaf in self.leaves.items()
        }
        return {**parameters, **{name: self.buffers[name][row].cpu().clone() for name in self.stored}}

    def keep(self, rows: Sequence[int]) -> None:
        """Let all but these members leave."""
        if not rows:
            return
        at = torch.tensor(rows, device=self.device)
        self.leaves = {name: leaf.detach()[at].requires_grad_() for name, leaf in self.leaves.items()}
        self.optimizer.keep(rows, list(self.leaves.values()))
        self.buffers = {name: buffer[at] for name, buffer in self.buffers.items()}
        self.valid, self.layouts = self.valid[at], {}
        for name in ("members", "orders", "targets", "generators", "dropouts"):
            setattr(self, name, [getattr(self, name)[row] for row in rows])

    def _build(self) -> tuple[list[Prepared], list[torch.Generator]]:
        """Build the modules as the loop does, and keep each member's random state behind it."""
        modules, generators = [], []
        for member in self.members:
            with torch.random.fork_rng([]):
                torch.default_generator.manual_seed(member.seed)
                modules.append(self.task.module(member))
                generator = torch.Generator(self.device)
                if self.device.type == "cpu":
                    generator.set_state(torch.get_rng_state())
                else:
                    generator.manual_seed(member.seed)
                generators.append(generator)
        return modules, generators

    def _check(self) -> None:
        foreign = [m for m in self.module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]  # noqa: SLF001 - the base of all of torch's
        if foreign:
            raise UnstackableError(f"{foreign[0]} draws its own noise")

    def _step(self, losses: Tensor, active: Sequence[bool]) -> None:
        gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()), allow_unused=True)
        self.optimizer.step(gradients, active)

    def _parameters(self) -> dict[str, Tensor]:
        return {name: leaf.mT if leaf.dim() == _MATRICES else leaf for name, leaf in self.leaves.items()}

    def _call(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: dict[str, Sequences]
    ) -> Output:
        out: Output = functional_call(self.module, (parameters, buffers), (batch,), tie_weights=False)
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

    def _noise(self, batch: dict[str, Sequences], active: Sequence[bool]) -> dict[str, Tensor]:
        """Draw the noise of every dropout for every member that has clips in this step, as multipliers."""
        if not self.dropouts[0]:
            return {}
        layout = self._layout(batch)
        drawn = torch.zeros(len(self.members), sum(layout.words), dtype=torch.int64, device=self.device)
        if self.device.type == "cpu":
            for row, generator, acts in zip(drawn, self.generators, active, strict=True):
                if acts:
                    row.random_(-(2**63), None, generator=generator)
        else:
            drawn.random_(-(2**63), None, generator=self.generators[0])
        kept = drawn.view(torch.int16) >= layout.threshold
        multiplier = kept.float().mul_(layout.scale)  # a third of the time of torch.where
        starts = [0, *accumulate(layout.words)]
        return {
            f"{name}.multiplier": multiplier[:, _WORD * start : _WORD * start + shape.numel()].view(
                -1, *shape
            )
            for (name, shape), start in zip(layout.shapes.items(), starts[:-1], strict=True)
        }

    def _layout(self, batch: dict[str, Sequences]) -> Layout:
        """Return the layout for batches of this shape, found by one pass of one member."""
        signature = tuple(size for seq in batch.values() for size in seq.mask.shape[1:])
        if signature not in self.layouts:
            shapes = self._trace(batch)
            words = [-(-shape.numel() // _WORD) for shape in shapes.values()]
            repeats = torch.tensor([_WORD * count for count in words])
            rows = [[each[name] for name in shapes] for each in self.dropouts]
            threshold = torch.tensor([[d.threshold for d in row] for row in rows], dtype=torch.int16)
            scale = torch.tensor([[d.scale for d in row] for row in rows])
            self.layouts[signature] = Layout(
                shapes,
                words,
                threshold.repeat_interleave(repeats, 1).to(self.device),
                scale.repeat_interleave(repeats, 1).to(self.device),
            )
        return self.layouts[signature]

    @torch.no_grad()
    def _trace(self, batch: dict[str, Sequences]) -> dict[str, torch.Size]:
        shapes: dict[str, torch.Size] = {}

        def note(name: str, x: Tensor) -> None:
            if name in shapes:
                raise UnstackableError(f"the dropout {name} is used twice in one pass")
            shapes[name] = x.shape

        hooks = [
            m.register_forward_pre_hook(lambda _, x, name=name: note(name, x[0]))
            for name, m in _dropouts(self.module).items()
        ]
        try:
            self.module.eval()({name: Sequences(seq.features[0], seq.mask[0]) for name, seq in batch.items()})
        finally:
            self.module.train()
            for hook in hooks:
                hook.remove()
        return shapes


def _dropouts(module: nn.Module) -> dict[str, Dropout]:
    return {name: m for name, m in module.named_modules() if isinstance(m, Dropout) and m.rate > 0}


def _turned(parameter: Tensor) -> Tensor:
    """Turn a matrix around; it lies in a stack as its gradient comes."""
    return parameter.T if parameter.dim() == _MATRICES - 1 else parameter


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Stack indices of unequal number, filled up with each one's first."""
    longest = max(len(part) for part in parts)
    return torch.stack([torch.cat([part, part[:1].expand(longest - len(part))]) for part in parts])
