"""MISA, modality-invariant and -specific representations.

Hazarika, Zimmermann, Poria, *MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment
Analysis*, ACM Multimedia 2020. Shapes and losses as in the classification variant of MERTools (MERBench,
arXiv 2401.03429), the central-moment variant of similarity. Masks and missing modalities are ours.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Attention, Dropout
from mer_zoo.models.losses import LossWeight, moment_discrepancy, orthogonality, squared_error
from mer_zoo.models.unimodal import Unimodal

HEADS, FFN, DROPOUT = 2, 2048, 0.1  # of the paper's one transformer layer


class FusionLayer(nn.Module):
    """Post-norm transformer layer over the six vectors, shapes as `torch.nn.TransformerEncoderLayer`.

    Args:
        dim: Width d; even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, HEADS, DROPOUT)
        self.norm_1 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, FFN), nn.ReLU(), Dropout(DROPOUT), nn.Linear(FFN, dim), Dropout(DROPOUT)
        )
        self.norm_2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map `[B, N, d]` to `[B, N, d]`; what the mask `[B, N]` hides is not attended to."""
        x = self.norm_1(x + self.attention(x, x, mask))
        out: Tensor = self.norm_2(x + self.ffn(x))
        return out


def _projection(dim: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), activation())


class MISA(nn.Module):
    """A private and a shared vector per modality → transformer layer over all → concatenation → classifier.

    Losses: `similarity`, the moment discrepancy between the shared vectors of each pair of modalities (mean);
    `difference`, the orthogonality between private and shared and between private ones (sum);
    `reconstruction`, the squared error of each modality from the sum of its two vectors (mean). Each counts
    the clips that have what it compares.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h of every vector; even.
        dropout: In the encoders and before the classifier.
        sim_weight: Weight of `similarity`.
        diff_weight: Weight of `difference`.
        recon_weight: Weight of `reconstruction`.

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
        sim_weight: float = 1.0,
        diff_weight: float = 0.3,
        recon_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.unimodal = Unimodal(inputs, hidden, dropout, level)
        self.names = list(self.unimodal.encoders)
        self.project = nn.ModuleDict(
            {name: _projection(hidden, nn.ReLU).append(nn.LayerNorm(hidden)) for name in self.names}
        )
        self.private = nn.ModuleDict({name: _projection(hidden, nn.Sigmoid) for name in self.names})
        self.shared = _projection(hidden, nn.Sigmoid)
        self.reconstruct = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in self.names})
        self.fuse = FusionLayer(hidden)
        n = len(self.names) * hidden
        self.out = nn.Sequential(nn.Linear(2 * n, n), Dropout(dropout), nn.ReLU(), nn.Linear(n, hidden // 2))
        self.head = nn.Linear(hidden // 2, classes)
        self.sim_weight, self.diff_weight = LossWeight(sim_weight), LossWeight(diff_weight)
        self.recon_weight = LossWeight(recon_weight)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]` and, while training, the losses named above."""
        hidden, present = self.unimodal(batch)
        there = [present[name] for name in self.names]
        spaces = [self.project[name](hidden[name]) for name in self.names]
        private = [self.private[name](x) for name, x in zip(self.names, spaces, strict=True)]
        shared = list(self.shared(torch.stack(spaces)))
        mask = torch.stack(there * 2, 1)
        vectors = torch.stack(private + shared, 1)
        mixed = self.fuse(torch.where(mask.unsqueeze(-1), vectors, 0.0), mask)
        logits = self.head(self.out(torch.where(mask.unsqueeze(-1), mixed, 0.0).flatten(1)))
        if not self.training:
            return Output(logits)
        losses = {
            "similarity": self.sim_weight(_similarity(shared, there)),
            "difference": self.diff_weight(_difference(private, shared, there)),
            "reconstruction": self.recon_weight(self._reconstruction(spaces, private, shared, there)),
        }
        return Output(logits, losses)

    def _reconstruction(
        self, spaces: list[Tensor], private: list[Tensor], shared: list[Tensor], there: list[Tensor]
    ) -> Tensor:
        errors = [
            squared_error(self.reconstruct[name](p + s), x, t)
            for name, x, p, s, t in zip(self.names, spaces, private, shared, there, strict=True)
        ]
        return torch.stack(errors).mean()


def _similarity(shared: list[Tensor], there: list[Tensor]) -> Tensor:
    pairs = combinations(zip(shared, there, strict=True), 2)
    return torch.stack([moment_discrepancy(x, y, tx & ty) for (x, tx), (y, ty) in pairs]).mean()


def _difference(private: list[Tensor], shared: list[Tensor], there: list[Tensor]) -> Tensor:
    own = [orthogonality(p, s, t) for p, s, t in zip(private, shared, there, strict=True)]
    pairs = combinations(zip(private, there, strict=True), 2)
    across = [orthogonality(x, y, tx & ty) for (x, tx), (y, ty) in pairs]
    return torch.stack(own + across).sum()
