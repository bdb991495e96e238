"""The losses that pull a clip's two views together."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 100.0  # of 1 / temperature (Radford et al. 2021, section 2.5)


class PairLoss(nn.Module):
    """The loss of a batch of pairs; see `mer_zoo.alignment.settings.LOSSES`.

    `infonce` is the mean of both directions' cross-entropy over cosines divided by a learnable temperature
    (van den Oord et al. 2018; Radford et al. 2021). Copies of one clip are not each other's negatives.

    Args:
        name: Of the loss.
        temperature: Where `infonce` starts.
    """

    def __init__(self, name: str, temperature: float = 0.07) -> None:
        super().__init__()
        self.name = name
        self.log_scale = nn.Parameter(torch.tensor(math.log(min(1 / temperature, MOST))))

    @property
    def temperature(self) -> float:
        """The temperature as it is now."""
        return 1 / min(math.exp(float(self.log_scale.detach())), MOST)

    def forward(self, given: Tensor, wanted: Tensor, content: Tensor) -> Tensor:
        """Return the mean loss, a scalar.

        Args:
            given: `[B, D]`, the head's output.
            wanted: `[B, D]`, standardised acoustic rows, which are left as they are.
            content: int64 `[B]`, equal for copies of one clip.
        """
        if self.name == "mse":
            return F.mse_loss(given, wanted)
        near = F.normalize(given, dim=-1) @ F.normalize(wanted, dim=-1).T
        if self.name == "cosine":
            return (1 - near.diagonal()).mean()
        logits = self.log_scale.exp().clamp(max=MOST) * near
        copies = (content[:, None] == content) & ~torch.eye(
            len(content), dtype=torch.bool, device=given.device
        )
        logits = logits.masked_fill(copies, -torch.inf)
        own = torch.arange(len(given), device=given.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
