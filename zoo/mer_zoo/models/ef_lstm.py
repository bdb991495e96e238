"""EF-LSTM, early fusion: one LSTM over the concatenated modalities.

Williams, Kleinegesse, Comanescu, Radu, *Recognizing Emotions in Video Using Multimodal DNN Feature Fusion*,
Challenge-HML workshop at ACL 2018. Shapes as in the classification variant of MERTools (MERBench, arXiv
2401.03429), which asks for modalities of equal length; bringing unequal ones onto one time axis is ours
(`recurrent.align`).
"""

from collections.abc import Mapping

import torch
from torch import nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout, complete, in_order
from mer_zoo.models.recurrent import LSTM, align


class EFLSTM(nn.Module):
    """Concatenation frame by frame → stacked LSTM → last state → Linear → classifier.

    Modalities of unequal length are stretched to the longest of the clip; a missing one is zero in the
    concatenation.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        hidden: State width.
        layers: LSTM layers.
        dropout: Between the layers, on the last state, and before the classifier.
        steps: Longest time axis; longer clips are averaged down to it.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.3,
        steps: int = 64,
    ) -> None:
        super().__init__()
        self.inputs, self.steps = dict(inputs), steps
        widths = [sum(inputs.values())] + [hidden] * (layers - 1)
        self.lstms = nn.ModuleList(LSTM(width, hidden) for width in widths)
        # One module a use: each carries noise of its own when members are trained as one stack.
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in widths)
        self.linear = nn.Linear(hidden, hidden)
        self.dropout_out = Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        aligned = align(complete(batch, self.inputs), self.steps)
        states = torch.cat([aligned.features[name] for name in in_order(self.inputs)], -1)
        *lower, last = zip(self.lstms, self.dropouts, strict=True)
        for lstm, dropout in lower:
            states = dropout(lstm(states, aligned.mask)[0])
        lstm, dropout = last
        state = dropout(lstm(states, aligned.mask)[0][:, -1])
        return Output(self.head(self.dropout_out(torch.relu(self.linear(state)))))
