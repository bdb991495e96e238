"""The learned mix of layers: a weight a layer, trained together with the probe that reads the mixture."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output, Sequences

INPUT = "layers"
_PACE = 10.0  # logits are this many times their parameter
_FLAT = 1e-10  # a feature that varies less than this does not vary
_COLUMNS = 64  # features whose covariances are computed at once


class LayerMix(nn.Module):
    """A softmax-weighted sum of all layers, standardised, before a probe (SUPERB, Yang et al. 2021).

    *Reconstructed* in two details. Each layer counts in units of its own spread, one number a layer, because
    encoders' layers differ in scale by orders of magnitude and a softmax over raw layers would be decided by
    it. And the mixture is standardised as the single layers are, which for any weights follows exactly from
    the layers' means and covariances over the training part. So the probe sees what it would see on a space
    extracted with `--layers weighted:…` and these weights.

    Args:
        statistics: Of the training part, from `layer_statistics`.
        probe: Reads `{INPUT: [B, 1, D]}`.
    """

    mean: Tensor
    covariance: Tensor
    spread: Tensor

    def __init__(self, statistics: Mapping[str, Tensor], probe: nn.Module) -> None:
        super().__init__()
        self.probe = probe
        for name, value in statistics.items():
            self.register_buffer(name, value)
        # Adam moves every parameter at about one pace, and weight decay pulls at each alike. The logits of
        # a softmax must go further than a classifier's weights, hence the factor.
        self.score = nn.Parameter(torch.zeros(len(self.spread)))

    def forward(self, batch: Batch) -> Output:
        """Map a batch of clips, each one row of L·D values, to logits `[B, C]`."""
        features, mask = batch[INPUT]
        layers = features.reshape(features.shape[0], *self.mean.shape)
        weights = share_of(self.score) / self.spread
        mixed = weights @ layers - weights @ self.mean
        variance = (self.covariance @ weights) @ weights
        mixed = mixed * torch.where(variance > _FLAT, variance, 1.0).rsqrt()
        out: Output = self.probe({INPUT: Sequences(mixed.unsqueeze(1), mask)})
        return out


def share_of(score: Tensor) -> Tensor:
    """Return the weights of layers in units of their spread, `[..., L]`, which sum to one."""
    return (_PACE * score).softmax(-1)


def layer_statistics(rows: Tensor) -> dict[str, Tensor]:
    """Return what a mix is standardised by, from rows `[n, L, D]` of a training part.

    Returns:
        `mean` `[L, D]`; `covariance` `[D, L, L]` of the layers, feature by feature; `spread` `[L]`, the
        root mean square of each layer's deviations from its mean.
    """
    mean = rows.mean(0)
    parts = []
    for some in torch.split(torch.arange(rows.shape[2], device=rows.device), _COLUMNS):
        centred = (rows[:, :, some] - mean[:, some]).permute(2, 1, 0)
        parts.append(centred @ centred.mT / rows.shape[0])
    covariance = torch.cat(parts)
    spread = covariance.diagonal(dim1=1, dim2=2).mean(0).sqrt()
    return {"mean": mean, "covariance": covariance, "spread": torch.where(spread > 1e-6, spread, 1.0)}
