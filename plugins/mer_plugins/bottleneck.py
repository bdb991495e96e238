"""Bottleneck adapters: a small residual module behind chosen transformer blocks, which stay as they are.

As Houlsby et al. (2019, arXiv 1902.00751) and Pfeiffer et al. (2021, arXiv 2005.00247) have them: project
down, an activation, project up, added to what went in. There is one behind each chosen block, on the block's
whole output, which peft does not offer. The paper on acoustic adaptation and its review do not say where
theirs sat or how wide they were: *reconstructed*, with place and width as parameters.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mer_plugins.blocks import encoder_blocks
from mer_plugins.errors import PluginError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip
PREFIX = "blocks."  # of the tensors' names: blocks.<block>.down.weight …


class Bottleneck(nn.Module):
    """`x + up(act(down(x)))`; `up` is zero at first, so that a new one changes nothing.

    Weights are float32 and so is the arithmetic, whatever the encoder computes in; the sum has the encoder's
    type again.

    Args:
        width: Of the block's output.
        size: Of the bottleneck.
        activation: One of `ACTIVATIONS`.
        dropout: Of the activations, while training.
        generator: Draws the weights of `down`; None takes torch's own.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, size, dtype=torch.float32)
        self.act = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(size, width, dtype=torch.float32)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[…, width]` to the same shape, type and device."""
        inside = x.to(self.down.weight.device, self.down.weight.dtype)
        change: Tensor = self.up(self.dropout(self.act(self.down(inside))))
        return x + change.to(x.device, x.dtype)

    def behind(self, block: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002 - torch's signature
        """Change what a block gives: the forward hook."""
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)


class Bottlenecks(nn.ModuleDict):
    """The bottlenecks of one encoder by block number (from 0, as text)."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights as they are saved: `blocks.<block>.{down,up}.{weight,bias}`."""
        return {PREFIX + name: tensor for name, tensor in self.state_dict().items()}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights named as `tensors` names them.

        Raises:
            PluginError: Some are missing, left over or of another shape.
        """
        try:
            self.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
        except RuntimeError as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
            raise PluginError(
                f"the bottlenecks' weights do not fit: {reason}", "give the model they were trained on"
            ) from error


def attach_bottlenecks(
    net: Any,
    blocks: Sequence[int],
    size: int,
    *,
    activation: str = "gelu",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Bottlenecks:
    """Put new bottlenecks behind blocks of an encoder, as its submodule `bottlenecks`.

    They act in front of any other hook, so that hidden states, however they are collected, have them in.

    Args:
        net: A transformers encoder.
        blocks: Numbers from 0; block k gives layer k + 1.
        size: Of the bottleneck.
        activation: One of `ACTIVATIONS`.
        dropout: Of the activations, while training.
        generator: Draws the first weights.

    Raises:
        PluginError: No such block, no such activation, no size, or the encoder has bottlenecks already.
    """
    name, there = encoder_blocks(net)
    _check(net, name, len(there), blocks, size, activation)
    width = int(net.config.hidden_size)
    made = Bottlenecks()
    for block in sorted(set(blocks)):
        one = Bottleneck(width, size, activation=activation, dropout=dropout, generator=generator)
        made[str(block)] = one.to(_place(there[block]))
        there[block].register_forward_hook(one.behind, prepend=True)
    net.add_module("bottlenecks", made)
    return made


def _check(net: Any, name: str, have: int, blocks: Sequence[int], size: int, activation: str) -> None:
    kind = type(net).__name__
    if hasattr(net, "bottlenecks"):
        raise PluginError(f"this {kind} has bottlenecks already", "load it anew")
    if not getattr(getattr(net, "config", None), "hidden_size", None):
        raise PluginError(f"the configuration of this {kind} says no hidden_size", "take another method")
    outside = [block for block in blocks if not 0 <= block < have]
    if outside or not blocks:
        which = f"no block {outside[0]}" if outside else "no blocks were chosen"
        raise PluginError(f"{kind} has {have} blocks ({name}) and {which}", f"blocks are 0 to {have - 1}")
    if activation not in ACTIVATIONS:
        raise PluginError(f"no activation {activation!r}", f"there are: {', '.join(ACTIVATIONS)}")
    if size < 1:
        raise PluginError(f"a bottleneck of size {size}", "say 1 or more")


def _place(block: nn.Module) -> torch.device:
    device = next(block.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device  # accelerate keeps weights elsewhere
