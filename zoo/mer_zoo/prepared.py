"""A model together with the standardisation it was trained with, so that one state dict holds both."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.data import Features
from mer_zoo.models.blocks import padding_is_zero


class Prepared(nn.Module):
    """Standardises features with stored means and scales, then runs the model.

    Args:
        model: A fusion model.
        statistics: Mean and scale `[D]` per modality; a modality without is passed on as it is.
    """

    def __init__(self, model: nn.Module, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.standardised = tuple(statistics)
        for name, (mean, scale) in statistics.items():
            self.register_buffer(f"mean_{name}", mean)
            self.register_buffer(f"scale_{name}", scale)

    def forward(self, batch: Batch) -> Output:
        """Map a batch to the model's output."""
        with padding_is_zero():
            out: Output = self.model({name: self._prepare(name, seq) for name, seq in batch.items()})
        return out

    def _prepare(self, name: str, sequences: Sequences) -> Sequences:
        features, mask = sequences
        if name in self.standardised:
            mean, scale = self.get_buffer(f"mean_{name}"), self.get_buffer(f"scale_{name}")
            features = torch.addcmul(-mean * scale, features, scale)
        return Sequences(torch.where(mask.unsqueeze(-1), features, 0.0), mask)


def standardise_(sequences: Sequences, mean: Tensor, scale: Tensor) -> None:
    """Standardise features in place as `Prepared` does, and zero their padding."""
    features, mask = sequences
    torch.addcmul(-mean * scale, features, scale, out=features)
    if not bool(mask.all()):
        features.masked_fill_(~mask.unsqueeze(-1), 0.0)


def fit_statistics(features: Features, train: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and scale per modality over the training clips `train` only."""
    return {name: table.fit(train) for name, table in features.tables.items()}


def blank_statistics(widths: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return statistics that change nothing, for a module whose own are about to be loaded."""
    return {name: (torch.zeros(width), torch.ones(width)) for name, width in widths.items()}


@torch.no_grad()
def logits_of(module: nn.Module, features: Features, index: Tensor, batch_size: int = 512) -> Tensor:
    """Return logits `[n, C]` of clips `index` `[n]`, with the module in evaluation mode."""
    module.eval()
    return torch.cat([module(features.batch(part)).logits for part in torch.split(index, batch_size)])


def mean_probs(modules: Sequence[nn.Module], features: Features, index: Tensor) -> NDArray[np.float32]:
    """Return the mean over modules of their probabilities, float32 `[n, C]`, of clips `index` `[n]`."""
    each = [logits_of(module, features, index).softmax(-1) for module in modules]
    mean: NDArray[np.float32] = torch.stack(each).mean(0).cpu().numpy()
    return mean
