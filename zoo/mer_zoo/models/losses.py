"""Auxiliary losses of the fusion models, over the clips that have what is compared.

All take `there` `[B]` bool: clips without the modality add nothing, and a batch without any such clip gives 0
with a zero gradient, never NaN. `x`, `y` are `[B, d]` float unless said otherwise; every result is a scalar.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.errors import ZooError


class LossWeight(nn.Module):
    """The weight of an auxiliary loss, as a buffer that is not stored with the weights.

    As a buffer it is stacked like everything else when members are trained as one, so that members of one
    stack can differ in it.

    Args:
        weight: Factor, 0 or more.

    Raises:
        ZooError: A negative one, which would reward what it is to punish.
    """

    weight: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        if weight < 0:
            raise ZooError(f"a loss cannot weigh {weight:g}", "use a weight of 0 or more")
        self.register_buffer("weight", torch.tensor(float(weight)), persistent=False)

    def forward(self, loss: Tensor) -> Tensor:
        """Return the weighted loss."""
        return self.weight * loss

    def extra_repr(self) -> str:
        """Show the weight."""
        return f"{float(self.weight):g}"


def mean_over(values: Tensor, there: Tensor) -> Tensor:
    """Mean of `[B, …]` over the clips that are there, or over frames with a mask `[B, T]`; 0 if none are."""
    mask = there.reshape(there.shape + (1,) * (values.dim() - there.dim()))
    total = torch.where(mask, values, 0.0).sum()
    return total / (there.sum() * math.prod(values.shape[there.dim() :])).clamp(min=1)


def squared_error(x: Tensor, y: Tensor, there: Tensor) -> Tensor:
    """Mean squared error; `[B, d]` with `there` `[B]`, or `[B, T, d]` with a frame mask `[B, T]`."""
    return mean_over((x - y).square(), there)


def moment_discrepancy(x: Tensor, y: Tensor, there: Tensor, moments: int = 5) -> Tensor:
    """Central moment discrepancy between the distributions of `x` and `y` over the batch.

    Zellinger et al., *Central Moment Discrepancy (CMD) for Domain-Invariant Representation Learning*, ICLR
    2017: the distance between the means plus those between the central moments 2 … `moments`. Values must be
    in [0, 1].
    """
    rows = there.unsqueeze(-1)
    count = there.sum().clamp(min=1)
    mean_x, mean_y = (torch.where(rows, z, 0.0).sum(0) / count for z in (x, y))
    # vector_norm has a zero gradient at zero, where the square root of a sum of squares has NaN.
    total: Tensor = torch.linalg.vector_norm(mean_x - mean_y)
    for k in range(2, moments + 1):
        moment_x, moment_y = (
            torch.where(rows, (z - mean) ** k, 0.0).sum(0) / count for z, mean in ((x, mean_x), (y, mean_y))
        )
        total = total + torch.linalg.vector_norm(moment_x - moment_y)
    return total


def orthogonality(x: Tensor, y: Tensor, there: Tensor) -> Tensor:
    """Soft subspace orthogonality ‖XᵀY‖² / d², rows centred over the batch and scaled to unit length.

    Bousmalis et al., *Domain Separation Networks*, NeurIPS 2016, as MISA uses it; the scale is held constant
    in the backward pass.
    """
    rows = there.unsqueeze(-1)
    count = there.sum().clamp(min=1)
    scaled = []
    for z in (x, y):
        centred = torch.where(rows, z - torch.where(rows, z, 0.0).sum(0) / count, 0.0)
        length = torch.linalg.vector_norm(centred, dim=1, keepdim=True).detach()
        scaled.append(centred / (length + 1e-6))
    correlation: Tensor = scaled[0].transpose(0, 1) @ scaled[1]
    return correlation.square().mean()


def contrast(x: Tensor, y: Tensor, there: Tensor, temperature: float = 1.0) -> Tensor:
    """InfoNCE of `x` against every `y` of the batch (van den Oord et al. 2018), on unit vectors.

    For each clip the negative log share of its own `y` in the sum over all clips that are there.
    """
    scores = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).transpose(0, 1) / temperature
    own = (scores * torch.eye(len(x), device=x.device, dtype=x.dtype)).sum(-1)
    every = scores.masked_fill(~there, torch.finfo(x.dtype).min).logsumexp(-1)
    return mean_over(every - own, there)


def gaussian_discrepancy(z: Tensor, there: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of `z` `[B, d]` to N(0, I), with the kernel exp(-‖a - b‖² / d²).

    The expectations over the Gaussian are taken in closed form instead of from samples: the same in
    expectation, without noise, and the same value twice.
    """
    d = z.shape[-1]
    width = float(d * d)
    length = z.square().sum(-1)
    distance = length.unsqueeze(1) + length.unsqueeze(0) - 2 * z @ z.transpose(0, 1)
    near = torch.exp(-distance.clamp(min=0) / width)
    weight = there.to(z.dtype) / there.sum().clamp(min=1)
    among = weight @ near @ weight
    shrink = (1 + 2 / width) ** (-d / 2)
    across = shrink * (weight * torch.exp(-length / (width + 2))).sum()
    prior = (1 + 4 / width) ** (-d / 2)
    return torch.where(there.any(), prior + among - 2 * across, 0.0)
