"""Adam for the members of a stack: fused steps over all of them, each with its own rate, decay and count."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from mer_zoo.settings import Settings

_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Block:
    """Members next to each other that take the same step.

    Attributes:
        rows: Which.
        lr: Learning rate.
        weight_decay: Added to the gradient.
        count: Steps they have taken.
    """

    rows: slice
    lr: float
    weight_decay: float
    count: int


class StackedAdam:
    """Adam (Kingma and Ba 2015) over parameters stacked along their first axis; each as torch does it.

    Parameters are updated where they lie, without being cut into members as long as neighbours agree in
    rate, decay and steps taken.

    Args:
        parameters: `[M, …]` each, contiguous.
        settings: Of the M members.
    """

    def __init__(self, parameters: Sequence[Tensor], settings: Sequence[Settings]) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.rates = [(s.lr, s.weight_decay) for s in settings]
        self.counts = [0] * len(settings)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], active: Sequence[bool]) -> None:
        """Update the members that are active; a parameter without gradient stays as it is."""
        for block in self._blocks(active):
            used = [
                (p[block.rows], g[block.rows].contiguous(), m[block.rows], v[block.rows])
                for p, g, m, v in zip(self.parameters, gradients, self.means, self.squares, strict=True)
                if g is not None
            ]
            values, grads, means, squares = (list(column) for column in zip(*used, strict=True))
            counts = torch.full((len(used),), float(block.count), device=values[0].device)
            adam(
                values,
                grads,
                means,
                squares,
                [],
                list(counts.unbind()),
                fused=True,
                amsgrad=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                lr=block.lr,
                weight_decay=block.weight_decay,
                eps=_EPS,
                maximize=False,
            )
        self.counts = [count + acts for count, acts in zip(self.counts, active, strict=True)]

    def keep(self, rows: Sequence[int], parameters: Sequence[Tensor]) -> None:
        """Let all but these members leave; `parameters` are theirs, at a new place."""
        at = torch.tensor(rows, device=self.parameters[0].device)
        self.parameters = [p.detach() for p in parameters]
        self.means = [m[at] for m in self.means]
        self.squares = [v[at] for v in self.squares]
        self.rates = [self.rates[row] for row in rows]
        self.counts = [self.counts[row] for row in rows]

    def _blocks(self, active: Sequence[bool]) -> list[Block]:
        """Divide the active members into blocks, as few as there can be."""
        found: list[Block] = []
        for row, ((lr, decay), count, acts) in enumerate(zip(self.rates, self.counts, active, strict=True)):
            if not acts:
                continue
            last = found[-1] if found else None
            if (
                last
                and last.rows.stop == row
                and (last.lr, last.weight_decay, last.count) == (lr, decay, count)
            ):
                found[-1] = Block(slice(last.rows.start, row + 1), lr, decay, count)
            else:
                found.append(Block(slice(row, row + 1), lr, decay, count))
        return found
