"""TFN, the Tensor Fusion Network.

Zadeh, Chen, Poria, Cambria, Morency, *Tensor Fusion Network for Multimodal Sentiment Analysis*, EMNLP 2017.
Widths and encoders as in the classification variant of MERTools (MERBench, arXiv 2401.03429): every modality
through the same kind of encoder, where the paper had an LSTM for text and MLPs for the others. Missing
modalities and masks are ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout
from mer_zoo.models.unimodal import Unimodal


def with_one(x: Tensor) -> Tensor:
    """Prepend a constant 1: `[B, d]` → `[B, d + 1]`, so that a product keeps the lower-order terms."""
    return F.pad(x, (1, 0), value=1.0)


def outer_product(vectors: list[Tensor]) -> Tensor:
    """Flattened outer product of `[1, x]` over the modalities: n times `[B, d]` → `[B, (d + 1)^n]`."""
    product = with_one(vectors[0])
    for x in vectors[1:]:
        product = (product.unsqueeze(2) * with_one(x).unsqueeze(1)).flatten(1)
    return product


class TFN(nn.Module):
    """Outer product of all modalities, flattened, then an MLP: all uni-, bi- and trimodal interactions.

    A missing modality is the vector `[1, 0, …]`: its interactions vanish and the others stay. With three
    modalities the first layer of the head holds (hidden + 1)³ · hidden weights: 17.6 million at 64, 275
    million at 128.

    Args:
        inputs: Width D per modality, one to three of them; sequences `[B, T, D]` each.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h of the encoders and the head.
        dropout: In the encoders and on the product.

    Raises:
        ZooError: An unknown level.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        level: str = "utt",
        hidden: int = 64,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.unimodal = Unimodal(inputs, hidden, dropout, level)
        self.dropout = Dropout(dropout)
        self.linear_1 = nn.Linear((hidden + 1) ** len(inputs), hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        hidden, _ = self.unimodal(batch)
        product = self.dropout(outer_product(list(hidden.values())))
        return Output(self.head(torch.relu(self.linear_2(torch.relu(self.linear_1(product))))))
