"""Which hidden layers make a feature: one grammar for every transformer encoder.

Layer 0 is what enters the first block, layer k what block k gives. Chosen layers are **summed**, as the
MERTools baseline does with the last four; `weighted:w0,w1,…` sums all of them, each times its weight, as
learned by a probe; `all` keeps them apart on a layer axis, for layer probing.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mer_featurestore.errors import UnknownName, suggest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_WORDS = ("last", "last4", "all")


@dataclass(frozen=True, slots=True)
class Layers:
    """The chosen layers, ascending: summed, summed with weights, or stacked on an axis."""

    indices: tuple[int, ...]
    mix: Literal["sum", "weighted", "stack"] = "sum"
    weights: tuple[float, ...] = ()

    @property
    def deepest(self) -> int:
        """The last layer needed; blocks after it need not run."""
        return self.indices[-1]

    def row_shape(self, width: int) -> tuple[int, ...]:
        """Return `(D,)`, or `(L, D)` when stacked."""
        return (len(self.indices), width) if self.mix == "stack" else (width,)

    def made_by(self) -> dict[str, Any]:
        """Return the fingerprint's part; equal for equal layers however they were written."""
        weights = {"layer_weights": list(self.weights)} if self.mix == "weighted" else {}
        return {"layers": list(self.indices), "layer_mix": self.mix, **weights}

    def combine(self, states: "Mapping[int, Tensor] | Sequence[Tensor]", stack_dim: int = -2) -> "Tensor":
        """Return the (weighted) sum of the layers, each `[…, D]`, or their stack `[…, L, D]`."""
        if self.mix == "stack":
            import torch

            return torch.stack([states[k] for k in self.indices], dim=stack_dim)
        weights = self.weights or (1.0,) * len(self.indices)
        total = states[self.indices[0]] * weights[0]
        for k, weight in zip(self.indices[1:], weights[1:], strict=True):
            total = total + states[k] * weight
        return total


def parse_layers(text: str, blocks: int) -> Layers:
    """Read `last`, `last4`, `all`, `k`, `i-j` or `weighted:w0,w1,…` for an encoder of `blocks` blocks.

    `weighted` has a weight for each layer, 0 to `blocks`, taken as they are; layers of weight 0 are left out.

    Raises:
        UnknownName: Not of this grammar, or a layer the encoder does not have.
    """
    text = text.strip()
    if text == "all":
        return Layers(tuple(range(blocks + 1)), "stack")
    if text == "last":
        return Layers((blocks,))
    if text == "last4":
        return Layers(tuple(range(max(1, blocks - 3), blocks + 1)))
    if text.startswith("weighted:") and (weighted := _weighted(text.removeprefix("weighted:"), blocks)):
        return weighted
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() if dash else True):
        low, high = int(first), int(last or first)
        if low <= high <= blocks:
            return Layers(tuple(range(low, high + 1)))
    near = suggest(text, _WORDS) if text.isalnum() and not text.isdecimal() else ""
    near = near if near.startswith("did you mean") else ""
    grammar = f"this encoder has layers 0 to {blocks}: say last, last4, all, one layer k, a band i-j or "
    grammar += f"weighted:w0,w1,… with {blocks + 1} weights, not all 0"
    raise UnknownName("layers", text, _WORDS, f"{near} {grammar}".strip())


def _weighted(text: str, blocks: int) -> Layers | None:
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        return None
    used = {k: weight for k, weight in enumerate(weights) if weight}
    if len(weights) != blocks + 1 or not used or not all(map(math.isfinite, weights)):
        return None
    return Layers(tuple(used), "weighted", tuple(used.values()))
