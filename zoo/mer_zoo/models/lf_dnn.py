"""LF-DNN, late fusion by a small network.

Cambria, Hazarika, Poria, Subramanyam, Vij, *Benchmarking Multimodal Sentiment Analysis*, CICLing 2017;
Williams, Kleinegesse, Comanescu, Radu, *Recognizing Emotions in Video Using Multimodal DNN Feature Fusion*,
Challenge-HML workshop at ACL 2018. Shapes as in the classification variant of MERTools (MERBench, arXiv
2401.03429). Missing modalities and masks are ours.
"""

from collections.abc import Mapping

import torch
from torch import nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout, Linear
from mer_zoo.models.unimodal import Unimodal


class LFDNN(nn.Module):
    """An encoder per modality, concatenation, two layers, classifier; a missing modality is zero.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width of every layer.
        dropout: In the encoders and on the concatenation.

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
        self.stacks = level == "utt"
        self.unimodal = Unimodal(inputs, hidden, dropout, level)
        self.dropout = Dropout(dropout)
        self.linear_1 = Linear(hidden * len(inputs), hidden)
        self.linear_2 = Linear(hidden, hidden)
        self.head = Linear(hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        hidden, _ = self.unimodal(batch)
        joined = self.dropout(torch.cat(list(hidden.values()), -1))
        return Output(self.head(torch.relu(self.linear_2(torch.relu(self.linear_1(joined))))))
