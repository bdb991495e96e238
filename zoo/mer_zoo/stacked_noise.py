"""Noise for the dropouts of a stack: drawn at once for all of them, by each member's own generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from mer_zoo.contract import Sequences
from mer_zoo.models.blocks import Dropout, multipliers

_WORD = 4  # int16 values in one int64 of noise


class UnstackableError(Exception):
    """A model whose members cannot share one computation."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the noise of each dropout lies in one row of noise, for batches of one shape.

    Attributes:
        shapes: What each dropout is given, in the order of the calls.
        words: 64-bit words of noise each takes.
        threshold: float32 `[M, 4·Σwords]`, or `[M, 1]` where a member has one rate: noise below drops.
        scale: float32, likewise: what is kept is multiplied with.
    """

    shapes: dict[str, torch.Size]
    words: list[int]
    threshold: Tensor
    scale: Tensor


class Noise:
    """Draws what the `Dropout` modules of M members multiply with.

    Args:
        modules: The members' models, of equal shape; the first is traced to see what its dropouts are given.
        generators: One per member, on the device. On a GPU the first draws for all.

    Raises:
        UnstackableError: The model has random layers other than our own.
    """

    def __init__(self, modules: Sequence[nn.Module], generators: Sequence[torch.Generator]) -> None:
        self.module, self.generators = modules[0], list(generators)
        self.device = self.generators[0].device
        foreign = [m for m in self.module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]  # noqa: SLF001 - the base of all of torch's
        if foreign:
            raise UnstackableError(f"{foreign[0]} draws its own noise")
        self.dropouts = [_dropouts(module) for module in modules]
        self.layouts: dict[tuple[int, ...], Layout] = {}

    def draw(self, batch: Mapping[str, Sequences], active: Sequence[bool]) -> dict[str, Tensor]:
        """Return the multipliers `[M, …]` of each dropout; only members that are active move on in theirs."""
        if not self.dropouts[0]:
            return {}
        layout = self._layout(batch)
        words = torch.zeros(len(self.generators), sum(layout.words), dtype=torch.int64, device=self.device)
        if self.device.type == "cpu":
            for row, generator, acts in zip(words, self.generators, active, strict=True):
                if acts:
                    row.random_(-(2**63), None, generator=generator)
        else:
            words.random_(-(2**63), None, generator=self.generators[0])
        drawn = multipliers(words.view(torch.int16), layout.threshold, layout.scale)
        starts = accumulate(layout.words, initial=0)
        return {
            f"{name}.multiplier": drawn[:, _WORD * start : _WORD * start + shape.numel()].view(-1, *shape)
            for (name, shape), start in zip(layout.shapes.items(), starts, strict=False)
        }

    def keep(self, rows: Sequence[int]) -> None:
        """Let all but these members leave."""
        self.generators = [self.generators[row] for row in rows]
        self.dropouts = [self.dropouts[row] for row in rows]
        self.layouts = {}

    def _layout(self, batch: Mapping[str, Sequences]) -> Layout:
        """Return the layout for batches of this shape, found by one pass of one member."""
        signature = tuple(size for seq in batch.values() for size in seq.mask.shape[1:])
        if signature not in self.layouts:
            shapes = self._trace(batch)
            words = [-(-shape.numel() // _WORD) for shape in shapes.values()]
            rows = [[each[name] for name in shapes] for each in self.dropouts]
            self.layouts[signature] = Layout(
                shapes,
                words,
                self._spread([[float(d.threshold) for d in row] for row in rows], words),
                self._spread([[d.scale for d in row] for row in rows], words),
            )
        return self.layouts[signature]

    def _spread(self, values: Sequence[Sequence[float]], words: Sequence[int]) -> Tensor:
        """Repeat each dropout's value for all its noise; once is enough where a member has only one."""
        each = torch.tensor(values)
        if bool((each == each[:, :1]).all()):
            return each[:, :1].to(self.device)
        repeats = torch.tensor([_WORD * count for count in words])
        return each.repeat_interleave(repeats, 1).to(self.device)

    @torch.no_grad()
    def _trace(self, batch: Mapping[str, Sequences]) -> dict[str, torch.Size]:
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
