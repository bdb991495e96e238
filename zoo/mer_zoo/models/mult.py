"""MulT, the Multimodal Transformer for unaligned sequences.

Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, *Multimodal Transformer for Unaligned Multimodal Language
Sequences*, ACL 2019. Shapes as in the classification variant of MERTools (MERBench, arXiv 2401.03429). Ours:
the convolution keeps the length (theirs drops the border), positions as in the paper (MERTools has none),
lengths are those of the clip, not of the padded batch, and masks and missing modalities are respected.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import Attention, Dropout, complete, in_order, positions
from mer_zoo.models.recurrent import shorten


class Convolution(nn.Module):
    """Convolution over time without bias, length kept, as a sum of shifted matrix products.

    Args:
        features: Input width D.
        dim: Output width d.
        kernel: Frames it sees; odd.
    """

    def __init__(self, features: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(dim, features, kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, sequences: Sequences) -> Sequences:
        """Map `[B, T, D]`, zero where masked, to `[B, T, d]`, zero where masked."""
        features, mask = sequences
        side, length = self.kernel // 2, features.shape[1]
        padded = F.pad(features, (0, 0, side, side))
        shifted = [
            padded[:, k : k + length] @ self.weight[..., k].transpose(0, 1) for k in range(self.kernel)
        ]
        return Sequences(torch.where(mask.unsqueeze(-1), torch.stack(shifted).sum(0), 0.0), mask)


class Layer(nn.Module):
    """Pre-norm layer; one norm for query and context, an FFN of four times the width.

    Args:
        dim: Width d.
        heads: Attention heads.
        dropout: On the attention's weights and output and in the FFN.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout, weight_dropout=dropout)
        self.norm_2 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(4 * dim, dim), Dropout(dropout)
        )
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, context: Tensor | None, seen: Tensor) -> Tensor:
        """Map `[B, Tq, d]` to `[B, Tq, d]`, reading the context `[B, Tk, d]` where `seen` `[B, Tq, Tk]`."""
        query = self.norm_1(x)
        x = x + self.attention(query, query if context is None else self.norm_1(context), seen)
        out: Tensor = x + self.ffn(self.norm_2(x))
        return out


class Stack(nn.Module):
    """Scaled input with positions → layers → norm; a context is read by all layers as it came.

    Args:
        dim: Width d.
        heads: Attention heads.
        layers: Layers.
        dropout: Everywhere.
        position: Whether sinusoidal positions are added.
        cross: Whether it will be given a context.
    """

    def __init__(
        self, dim: int, heads: int, layers: int, dropout: float, *, position: bool, cross: bool
    ) -> None:
        super().__init__()
        self.position = position
        self.dropout = Dropout(dropout)
        self.dropout_context = Dropout(dropout) if cross else None
        self.layers = nn.ModuleList(Layer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, sequences: Sequences, context: Sequences | None = None) -> Sequences:
        """Map `[B, Tq, d]` to `[B, Tq, d]`, zero where masked."""
        x, other = self.dropout(self._embed(sequences.features)), None
        seen = visible(sequences.mask, sequences.mask if context is None else context.mask)
        if self.dropout_context is not None and context is not None:
            other = self.dropout_context(self._embed(context.features))
        for layer in self.layers:
            x = layer(x, other, seen)
        return Sequences(torch.where(sequences.mask.unsqueeze(-1), self.norm(x), 0.0), sequences.mask)

    def _embed(self, x: Tensor) -> Tensor:
        x = x * math.sqrt(x.shape[-1])
        return x + positions(x.shape[-2], x.shape[-1], x) if self.position else x


def visible(query: Tensor, key: Tensor) -> Tensor:
    """Return `[B, Tq, Tk]`: which frames see which, the future hidden.

    Frame i sees frame j up to j = i + |Tk - Tq|, counted over the clip's own real frames, so that of unequal
    sequences the last frame sees everything.
    """
    q, k = query.cumsum(1) - 1, key.cumsum(1) - 1
    slack = (query.sum(1) - key.sum(1)).abs()
    past = k.unsqueeze(1) <= (q + slack.unsqueeze(1)).unsqueeze(2)
    return past & query.unsqueeze(2) & key.unsqueeze(1)


def last_frame(sequences: Sequences) -> Tensor:
    """Return the last real frame `[B, d]`; zero for a clip without one."""
    features, mask = sequences
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return torch.where(last.unsqueeze(-1), features, 0.0).sum(1)


class MulT(nn.Module):
    """Every modality reads every other, then itself, by attention; the last frames are classified.

    Args:
        inputs: Width D per modality, at least two; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        hidden: Width d, divisible by `heads`.
        layers: Crossmodal layers per pair; the memory stacks have at least three.
        heads: Attention heads.
        kernel: Frames the temporal convolution sees; odd.
        dropout: Everywhere.
        position: Whether positions are added.
        steps: Longest sequence; longer ones are averaged down to it.

    Raises:
        ZooError: A width that the heads do not divide, or an even kernel.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        hidden: int = 64,
        layers: int = 4,
        heads: int = 8,
        kernel: int = 1,
        dropout: float = 0.1,
        position: bool = True,
        steps: int = 128,
    ) -> None:
        super().__init__()
        _check(hidden, heads, kernel)
        self.inputs, self.steps = dict(inputs), steps
        self.names = in_order(inputs)
        wide = (len(self.names) - 1) * hidden
        self.project = nn.ModuleDict({n: Convolution(inputs[n], hidden, kernel) for n in self.names})
        self.cross = nn.ModuleDict(
            {
                f"{n}<{m}": Stack(hidden, heads, layers, dropout, position=position, cross=True)
                for n in self.names
                for m in self.names
                if m != n
            }
        )
        self.memory = nn.ModuleDict(
            {
                n: Stack(wide, heads, max(layers, 3), dropout, position=position, cross=False)
                for n in self.names
            }
        )
        joined = wide * len(self.names)
        self.linear_1, self.linear_2 = nn.Linear(joined, joined), nn.Linear(joined, joined)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(joined, hidden // 2)
        self.head = nn.Linear(hidden // 2, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        found = complete(batch, self.inputs)
        short = {name: self.project[name](shorten(seq, self.steps)) for name, seq in found.items()}
        last = torch.cat([self._read(name, short) for name in self.names], -1)
        residual = self.linear_2(self.dropout(torch.relu(self.linear_1(last))))
        return Output(self.head(self.out(last + residual)))

    def _read(self, name: str, found: Mapping[str, Sequences]) -> Tensor:
        own = found[name]
        others = [self.cross[f"{name}<{other}"](own, found[other]) for other in self.names if other != name]
        joined = Sequences(torch.cat([seq.features for seq in others], -1), own.mask)
        return last_frame(self.memory[name](joined))


def _check(hidden: int, heads: int, kernel: int) -> None:
    if hidden % heads:
        raise ZooError(
            f"mult's hidden width {hidden} cannot be split over {heads} heads",
            "make hidden a multiple of heads",
        )
    if kernel % 2 == 0:
        raise ZooError(f"mult's kernel of {kernel} frames has no middle", "take an odd number")
