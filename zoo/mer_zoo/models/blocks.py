"""What the fusion models are made of: masked pooling, attention, transformer layers, dropout.

Everything here can be mapped over stacked parameters with `torch.func.vmap`: no branch on a tensor's values,
no writing into an input. Shapes: B clips, T frames, D features, d hidden units. Masks are bool, True = a real
frame.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mer_featurestore.records import MODALITIES
from mer_zoo.contract import Batch, Sequences
from mer_zoo.errors import ZooError

_LOWEST = -(2**15)  # of int16 noise
WORD = 4  # int16 values in one 64-bit word of noise
_ZEROED = ContextVar("zeroed", default=False)
_SOURCE: ContextVar[np.random.BitGenerator | None] = ContextVar("source", default=None)


@contextmanager
def padding_is_zero() -> Iterator[None]:
    """Promise that the batch a model is given within is zero wherever its mask is False.

    Who prepares batches knows whether anything is missing and can zero it in place; for the model, that
    cannot look at values, it is a pass over all features.
    """
    token = _ZEROED.set(True)
    try:
        yield
    finally:
        _ZEROED.reset(token)


def in_order(names: Iterable[str]) -> list[str]:
    """Return modality names in the one order every model uses: audio, video, text, then others by name."""
    rank: dict[str, int] = {name: i for i, name in enumerate(MODALITIES)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def complete(batch: Batch, inputs: Mapping[str, int]) -> dict[str, Sequences]:
    """Return the model's modalities of a batch, in order, with padding zeroed whatever it held.

    A modality that the batch does not have at all becomes one masked frame per clip.
    """
    some = next(iter(batch.values()))
    found = {}
    for name in in_order(inputs):
        if name in batch:
            features, mask = batch[name]
        else:
            mask = torch.zeros_like(some.mask[..., :1])
            features = some.features.new_zeros((*mask.shape, inputs[name]))
        if not _ZEROED.get():
            features = torch.where(mask.unsqueeze(-1), features, 0.0)
        found[name] = Sequences(features, mask)
    return found


def masked_mean(sequences: Sequences, *, zeroed: bool = False) -> Tensor:
    """Mean `[B, D]` over real frames; zero for a clip that has none.

    Args:
        sequences: `[B, T, D]`.
        zeroed: Whether padding is zero already, as `complete` leaves it.
    """
    features, mask = sequences
    if not zeroed:
        features = torch.where(mask.unsqueeze(-1), features, 0.0)
    if features.shape[-2] == 1:  # a single vector is its own mean
        return features.squeeze(-2)
    return features.sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of what the mask lets through; all zeros where it lets nothing through."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.where(mask, weights, 0.0)


def positions(length: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoidal positions `[length, dim]` (Vaswani et al. 2017), for an even or odd `dim`."""
    half = (dim + 1) // 2
    rate = torch.exp(torch.arange(half, device=like.device, dtype=like.dtype) * (-9.21 / half))  # 1 … 1/10000
    angle = torch.arange(length, device=like.device, dtype=like.dtype).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :dim]


class Linear(nn.Linear):
    """`torch.nn.Linear` that also takes a stack of turned weights `[M, in, out]` with inputs `[M, B, in]`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map `[…, in]` to `[…, out]`."""
        if self.weight.dim() == 2:
            return super().forward(input)
        return torch.baddbmm(self.bias.unsqueeze(-2), input, self.weight)


class Dropout(nn.Module):
    """Dropout whose noise is drawn as 16-bit integers, four to a random word.

    On a CPU that is many times faster than `torch.nn.Dropout`, which draws one Bernoulli variable per element
    and takes longer than the layer behind it on wide inputs. The rate is kept to 1/65536.

    Words come from torch's generator, or from the one that `noise_from` names. Members trained as one stack
    draw their noise outside of the model, each by its own generator and rate, and put what comes of it into
    the buffer `multiplier`, which is not stored with the weights.

    Args:
        rate: Share of elements set to zero while training, 0 ≤ rate < 1.

    Raises:
        ZooError: Another rate.
    """

    multiplier: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not (rate >= 0 and rate * 2**16 < 2**16 - 0.5):
            raise ZooError(f"a dropout rate of {rate:g} cannot be used", "use 0 or more, below 1")
        self.rate = float(rate)
        self.register_buffer("multiplier", torch.empty(0), persistent=False)

    @property
    def threshold(self) -> int:
        """Noise below this drops an element."""
        return _LOWEST + round(self.rate * 2**16)

    @property
    def scale(self) -> float:
        """What a kept element is multiplied with."""
        return 2.0**16 / (2**15 - self.threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with elements dropped and the rest scaled up, or `x` itself when not training."""
        if not self.training:
            return x
        if self.multiplier.numel():
            return x * self.multiplier
        if self.rate == 0:
            return x
        noise = draw_noise(x.shape, x.device).float()
        return x * to_multipliers_(noise, self.threshold, self.scale).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"


@contextmanager
def noise_from(source: np.random.BitGenerator) -> Iterator[None]:
    """Let dropouts on a CPU draw from this generator; torch's own takes four times as long a word."""
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def draw_noise(shape: Iterable[int], device: torch.device) -> Tensor:
    """Draw uniform int16 noise of a shape from the generator of `noise_from`, or from torch's own."""
    shape, source = tuple(shape), _SOURCE.get()
    count = math.prod(shape)
    size = -(-count // WORD)
    if source is not None and device.type == "cpu":
        words = torch.from_numpy(draw_words(source, size))
    else:
        # From the lowest to the highest int64, all 64 bits are random; `random_()` leaves the sign bit.
        words = torch.empty(size, dtype=torch.int64, device=device).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape)


def draw_words(source: np.random.BitGenerator, count: int) -> NDArray[np.int64]:
    """Draw int64 of which every bit is random."""
    words: NDArray[np.uint64] = np.asarray(source.random_raw(count))
    return words.view(np.int64)


def to_multipliers_(noise: Tensor, threshold: Tensor | float, scale: Tensor | float) -> Tensor:
    """Turn float noise, in place, into `scale`, or 0 where it is below `threshold`."""
    return noise.ge_(threshold).mul_(scale)  # by way of a bool it would take three times as long


class Attention(nn.Module):
    """Multi-head attention of a query sequence over a context sequence.

    Args:
        dim: Width d of both; divisible by `heads`.
        heads: Attention heads.
        dropout: On the output.
        weight_dropout: On the attention weights; None leaves it out.
    """

    def __init__(self, dim: int, heads: int, dropout: float, weight_dropout: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.context = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        self.weight_dropout = nn.Identity() if weight_dropout is None else Dropout(weight_dropout)

    def forward(self, query: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Attend from `query` `[B, Tq, d]` over `context` `[B, Tk, d]`: `[B, Tq, d]`.

        `mask` is `[B, Tk]`, or `[B, Tq, Tk]` where queries see different things. A query without any context
        gets zeros, so that the residual path alone remains.
        """
        seen = mask.unsqueeze(1) if mask.dim() == 2 else mask
        q = self._split(self.query(query))
        k, v = (self._split(half) for half in self.context(context).chunk(2, -1))
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = self.weight_dropout(masked_softmax(scores, seen.unsqueeze(1).expand_as(scores)))
        attended: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        out: Tensor = self.dropout(attended) * seen.any(-1, keepdim=True).to(attended.dtype)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention over a context (itself, when none is given), then an FFN.

    Args:
        dim: Width d.
        heads: Attention heads.
        dropout: After attention and inside the FFN.
        cross: Whether the context is another sequence, which then gets a norm of its own.
    """

    def __init__(self, dim: int, heads: int, dropout: float, *, cross: bool = False) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim) if cross else None
        self.attention = Attention(dim, heads, dropout)
        self.norm_ffn = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), Dropout(dropout), nn.Linear(2 * dim, dim), Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Map `x` `[B, T, d]` to `[B, T, d]`; `mask` is that of the context."""
        query = self.norm_query(x)
        if self.norm_context is not None and context is not None:
            x = x + self.attention(query, self.norm_context(context), mask)
        else:
            x = x + self.attention(query, query, mask)
        out: Tensor = x + self.ffn(self.norm_ffn(x))
        return out


class SequenceEncoder(nn.Module):
    """LayerNorm → Linear to d → positions → transformer blocks → LayerNorm, of one modality.

    Args:
        features: Input width D.
        dim: Width d.
        layers: Transformer blocks; 0 leaves the projection.
        heads: Attention heads.
        dropout: In the projection and the blocks.
    """

    def __init__(self, features: int, dim: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.project = nn.Linear(features, dim)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, dropout) for _ in range(layers))
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, sequences: Sequences) -> Sequences:
        """Map `[B, T, D]` to `[B, T, d]` under the same mask."""
        features, mask = sequences
        x = self.project(self.norm(features))
        x = self.dropout(x + positions(x.shape[-2], x.shape[-1], x))
        for block in self.blocks:
            x = block(x, mask)
        return Sequences(self.norm_out(x), mask)


class AttentionPool(nn.Module):
    """Masked attention pooling: a learned score per frame, softmax over real frames, weighted sum.

    Args:
        dim: Width d.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # A bias would shift every score alike, which softmax cannot see.
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, sequences: Sequences) -> Tensor:
        """Map `[B, T, d]` to `[B, d]`; zero for a clip without a real frame."""
        features, mask = sequences
        weights = masked_softmax(self.score(features).squeeze(-1), mask)
        return (weights.unsqueeze(-1) * features).sum(1)


class MLP(nn.Module):
    """Dropout → `layers` times (Linear → ReLU), the encoder of the field's baseline.

    Args:
        features: Input width D.
        dim: Width of every layer.
        dropout: On the raw input.
        layers: Linear layers.
    """

    def __init__(self, features: int, dim: int, dropout: float, layers: int = 3) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        widths = [features] + [dim] * layers
        self.linears = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, D]` to `[B, d]`."""
        x = self.dropout(x)
        for linear in self.linears:
            x = F.relu(linear(x), inplace=True)
        return x
