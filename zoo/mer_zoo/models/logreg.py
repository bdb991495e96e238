"""Logistic regression over all modalities: the sanity baseline that every fusion model has to beat."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout, Linear, complete, masked_mean


class LogisticRegression(nn.Module):
    """Masked means of all modalities, concatenated, one linear layer. Regularised by `weight_decay`.

    Each mean is brought to zero mean and unit variance over its own features (a layer norm without
    parameters): encoders differ in scale by orders of magnitude, and no statistics of the batch may enter. A
    missing modality is zero.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each, read as means.
        classes: Number of classes C.
        dropout: On the features.
        normalize: Whether each mean is normalised as said.
    """

    stacks = True

    def __init__(
        self, inputs: Mapping[str, int], classes: int, *, dropout: float = 0.0, normalize: bool = True
    ) -> None:
        super().__init__()
        self.inputs, self.normalize = dict(inputs), normalize
        self.dropout = Dropout(dropout)
        self.head = Linear(sum(inputs.values()), classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        means = [masked_mean(seq, zeroed=True) for seq in complete(batch, self.inputs).values()]
        if self.normalize:
            means = [F.layer_norm(x, x.shape[-1:]) for x in means]
        return Output(self.head(self.dropout(torch.cat(means, -1))))
