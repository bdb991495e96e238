"""Recurrence over masked frames in plain tensor operations, so that it can be mapped over stacked parameters.

Shapes: B clips, T frames, S aligned steps, D features, d hidden units. Masks are bool, True = a real frame.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Sequences
from mer_zoo.errors import ZooError


class Aligned(NamedTuple):
    """Modalities on one time axis: `[B, S, D]` each, mask `[B, S]`, and which clips have each, `[B]`."""

    features: Mapping[str, Tensor]
    mask: Tensor
    present: Mapping[str, Tensor]


def resample(sequences: Sequences, length: Tensor, steps: int) -> Tensor:
    """Bring real frames to each clip's `length` `[B]`, at most `steps`, by adaptive averaging: `[B, S, D]`.

    Step i is the mean of the real frames from ⌊i·n/length⌋ to ⌈(i+1)·n/length⌉, n being how many there are:
    fewer steps than frames average neighbours, more steps repeat frames. Where the masked frames lie does
    not matter. Steps from `length` on are zero.

    Raises:
        ZooError: Fewer steps than one.
    """
    if steps < 1:
        raise ZooError(f"{steps} steps leave nothing of a clip", "use steps of 1 or more")
    features, mask = sequences
    count = mask.sum(1, keepdim=True)
    size = length.clamp(min=1).unsqueeze(1)
    step = torch.arange(steps, device=mask.device).unsqueeze(0)
    first = torch.div(step * count, size, rounding_mode="floor")
    behind = torch.div((step + 1) * count + size - 1, size, rounding_mode="floor")
    rank = (mask.cumsum(1) - 1).unsqueeze(1)
    inside = mask.unsqueeze(1) & (rank >= first.unsqueeze(2)) & (rank < behind.unsqueeze(2))
    inside = inside & (step < length.unsqueeze(1)).unsqueeze(2)
    share = inside.to(features.dtype) / inside.sum(-1, keepdim=True).clamp(min=1)
    return share @ features


def align(batch: Mapping[str, Sequences], steps: int) -> Aligned:
    """Stretch the modalities of every clip to the longest of them, or all to `steps` where that is longer.

    Args:
        batch: Complete, with padding zeroed (`blocks.complete`).
        steps: Most steps of a clip.
    """
    size = min(steps, max(seq.mask.shape[1] for seq in batch.values()))
    counts = torch.stack([seq.mask.sum(1) for seq in batch.values()])
    length = counts.amax(0).clamp(max=size)
    features = {name: resample(seq, length, size) for name, seq in batch.items()}
    mask = torch.arange(size, device=length.device) < length.unsqueeze(1)
    return Aligned(features, mask, {name: seq.mask.any(1) for name, seq in batch.items()})


def shorten(sequences: Sequences, steps: int) -> Sequences:
    """Average one modality's real frames to at most `steps` per clip, moved to the front."""
    size = min(steps, sequences.mask.shape[1])
    length = sequences.mask.sum(1).clamp(max=size)
    mask = torch.arange(size, device=length.device) < length.unsqueeze(1)
    return Sequences(resample(sequences, length, size), mask)


class LSTM(nn.Module):
    """One-layer LSTM whose state stands still on masked frames; parameters as in `torch.nn.LSTM`.

    Args:
        features: Input width D.
        dim: State width d.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight_ih = nn.Parameter(torch.empty(4 * dim, features))
        self.weight_hh = nn.Parameter(torch.empty(4 * dim, dim))
        self.bias_ih = nn.Parameter(torch.empty(4 * dim))
        self.bias_hh = nn.Parameter(torch.empty(4 * dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def project(self, x: Tensor) -> Tensor:
        """Return the input's part of the gates, `[…, 4d]`."""
        return F.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)

    def step(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Advance states `[B, d]` by one frame whose projected input is `gates` `[B, 4d]`."""
        i, f, g, o = (gates + F.linear(h, self.weight_hh)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(self, x: Tensor, mask: Tensor, *, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """Map `[B, T, D]` with mask `[B, T]` to the states h and c after each frame, `[B, T, d]` both.

        Before the first real frame they are zero. With `reverse` the frames are read from the last to the
        first, and the states of frame t are those after reading t.
        """
        gates = self.project(x)
        h = c = gates.new_zeros((gates.shape[0], self.dim))
        states_h, states_c = [], []
        for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
            real = mask[:, t].unsqueeze(-1)
            new_h, new_c = self.step(gates[:, t], h, c)
            h, c = torch.where(real, new_h, h), torch.where(real, new_c, c)
            states_h.append(h)
            states_c.append(c)
        if reverse:
            states_h, states_c = states_h[::-1], states_c[::-1]
        return torch.stack(states_h, 1), torch.stack(states_c, 1)


def before(states: Tensor) -> Tensor:
    """Return for each frame the state before it: states `[B, T, d]` moved one on, zeros first."""
    return F.pad(states[:, :-1], (0, 0, 1, 0))
