"""The probe: masked means of the modalities, concatenated, through a small MLP. What fusion has to beat."""

from collections.abc import Mapping

import torch
from torch import nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import MLP, Dropout, Linear, complete, masked_mean


class Probe(nn.Module):
    """Unimodal probe, or early fusion by concatenation; a missing modality is a vector of zeros.

    Args:
        inputs: Width D per modality.
        classes: Number of classes C.
        hidden: Width of the hidden layers.
        layers: Hidden layers; 0 makes it a linear probe.
        dropout: On the raw input.
    """

    stacks = True

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        width = sum(inputs.values())
        self.encoder = MLP(width, hidden, dropout, layers)
        self.dropout = Dropout(dropout if layers else 0.0)
        self.head = Linear(hidden if layers else width, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        means = [masked_mean(seq, zeroed=True) for seq in complete(batch, self.inputs).values()]
        return Output(self.head(self.dropout(self.encoder(torch.cat(means, -1)))))
