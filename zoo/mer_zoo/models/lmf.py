"""LMF, Low-rank Multimodal Fusion.

Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, *Efficient Low-rank Multimodal Fusion with
Modality-Specific Factors*, ACL 2018. Shapes as in the classification variant of MERTools (MERBench, arXiv
2401.03429). Missing modalities and masks are ours.
"""

from collections.abc import Mapping

import torch
from torch import nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import in_order
from mer_zoo.models.tfn import with_one
from mer_zoo.models.unimodal import Unimodal


class LMF(nn.Module):
    """TFN's outer product through a weight tensor of low rank, without building either.

    fused = Σ_r w_r · Π_m (W_m,r [1, x_m]) + b. A missing modality is `[1, 0, …]`: only its constant term
    remains.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h of the encoders; the fused vector has h // 2.
        rank: Rank of the weight tensor.
        dropout: In the encoders.

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
        rank: int = 4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.unimodal = Unimodal(inputs, hidden, dropout, level)
        width = hidden // 2
        self.factors = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(rank, hidden + 1, width)) for name in in_order(inputs)}
        )
        self.rank_weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(1, width))
        for parameter in (*self.factors.values(), self.rank_weights):
            nn.init.xavier_normal_(parameter)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        hidden, _ = self.unimodal(batch)
        parts = [with_one(x) @ self.factors[name] for name, x in hidden.items()]  # [rank, B, h // 2] each
        product = torch.stack(parts).prod(0)
        fused = torch.einsum("or,rbw->bw", self.rank_weights, product) + self.bias
        return Output(self.head(fused))
