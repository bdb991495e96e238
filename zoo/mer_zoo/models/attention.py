"""The attention fusion every MER2024 participant starts from (MERTools, MER2024 baseline).

Lian et al., *MER 2024: Semi-Supervised Learning, Noise Robustness, and Open-Vocabulary Multimodal Emotion
Recognition*, arXiv 2404.17113; the layer shapes are those of the published baseline code. Ours differs where
that code has no
answer: frames are masked instead of zero-padded in front, and a missing modality is zero in the concatenation
and in the sum. A modality count other than three works too.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import MLP, Dropout, Linear, complete, in_order, masked_mean


class LastState(nn.Module):
    """One-layer LSTM → its state at the last real frame → dropout → Linear: the baseline's frame encoder.

    Real frames are moved to the front first, so that masked frames, wherever they are, never enter a state
    that is read.

    Args:
        features: Input width D.
        dim: Width h.
        dropout: On the state.
    """

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, dim, batch_first=True)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, dim)

    def forward(self, sequences: Sequences) -> Tensor:
        """Map `[B, T, D]` to `[B, h]`."""
        features, mask = sequences
        order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True).unsqueeze(-1)
        states, _ = self.lstm(features.gather(1, order.expand_as(features)))
        last = (mask.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])
        out: Tensor = self.linear(self.dropout(states.gather(1, last).squeeze(1)))
        return out


class MeanMLP(nn.Module):
    """Masked mean over frames → dropout → three Linear → ReLU: the baseline's utterance encoder.

    Args:
        features: Input width D.
        dim: Width h.
        dropout: On the raw input.
    """

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.mlp = MLP(features, dim, dropout)

    def forward(self, sequences: Sequences) -> Tensor:
        """Map `[B, T, D]`, padding zeroed, to `[B, h]`."""
        out: Tensor = self.mlp(masked_mean(sequences, zeroed=True))
        return out


class AttentionFusion(nn.Module):
    """Weighted sum of the modalities; the weights come from an MLP over all of them, without softmax.

    Args:
        inputs: Width D per modality.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h.
        dropout: On the raw inputs (`utt`) or the LSTM's state (`frame`), and on the concatenation.

    Raises:
        ZooError: An unknown level.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        level: str = "utt",
        hidden: int = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if level not in ENCODERS:
            raise ZooError(f"attention has no level {level!r}", "level is one of: " + ", ".join(ENCODERS))
        self.inputs, self.stacks = dict(inputs), level == "utt"
        self.encoders = nn.ModuleDict(
            {name: ENCODERS[level](inputs[name], hidden, dropout) for name in in_order(inputs)}
        )
        self.mlp = MLP(hidden * len(inputs), hidden, dropout)
        self.weights = Linear(hidden, len(inputs))
        self.head = Linear(hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        hidden = [self._encode(name, seq) for name, seq in complete(batch, self.inputs).items()]
        joined = torch.cat(hidden, -1)
        weights = self.weights(self.mlp(joined))
        each = joined.reshape(*joined.shape[:-1], len(hidden), -1)
        fused = (each * weights.unsqueeze(-1)).sum(-2)
        return Output(self.head(fused))

    def _encode(self, name: str, sequences: Sequences) -> Tensor:
        encoded: Tensor = self.encoders[name](sequences)
        return encoded * sequences.mask.any(-1, keepdim=True).to(encoded.dtype)


ENCODERS: Mapping[str, type[MeanMLP | LastState]] = {"utt": MeanMLP, "frame": LastState}
