"""MMIM, MultiModal InfoMax.

Han, Chen, Poria, *Improving Multimodal Fusion with Hierarchical Mutual Information Maximization for
Multimodal Sentiment Analysis*, EMNLP 2021. Shapes as in the classification variant of MERTools (MERBench,
arXiv 2401.03429). As there, the entropy term of the lower bound, which sorts clips by the sign of their
sentiment, is left out, and the bound is maximised together with the rest; the log-variance is squashed by
tanh as in the authors' code (MERTools drops it, and its gradients explode). Masks and missing modalities are
ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout
from mer_zoo.models.losses import LossWeight, contrast, mean_over
from mer_zoo.models.unimodal import Unimodal


class LowerBound(nn.Module):
    """Barber-Agakov bound on the mutual information of two vectors, by a Gaussian q(y | x).

    Args:
        dim: Width d of both.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.log_variance = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Tanh())

    def forward(self, x: Tensor, y: Tensor, there: Tensor) -> Tensor:
        """Return the mean log-likelihood of y given x, `[B, d]` both, without the log-variance's own term."""
        likelihood = -(self.mean(x) - y).square() / 2 / self.log_variance(x).exp()
        return mean_over(likelihood.sum(-1), there)


def predictor(dim: int, layers: int) -> nn.Sequential:
    """Return the network that predicts a modality from the fusion: Linear layers with tanh between them."""
    net: list[nn.Module] = [nn.Linear(dim, dim)]
    for _ in range(layers - 1):
        net += [nn.Tanh(), nn.Linear(dim, dim)]
    return nn.Sequential(*net)


class MMIM(nn.Module):
    """Encoders, concatenation, two tanh layers; mutual information is maximised at both levels.

    Losses: `contrast`, InfoNCE between each modality and its prediction from the fusion, and `bound`, minus
    the lower bound on what the pivot tells about each other modality. The pivot is text, or the first
    modality where there is none.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h of every layer.
        dropout: In the encoders and on the concatenation.
        cpc_layers: Layers of the predictors.
        alpha: Weight of `contrast`.
        beta: Weight of `bound`.

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
        cpc_layers: int = 1,
        alpha: float = 0.1,
        beta: float = 0.1,
    ) -> None:
        super().__init__()
        self.unimodal = Unimodal(inputs, hidden, dropout, level)
        names = list(self.unimodal.encoders)
        self.pivot = "text" if "text" in names else names[0]
        self.bounds = nn.ModuleDict({name: LowerBound(hidden) for name in names if name != self.pivot})
        self.predictors = nn.ModuleDict({name: predictor(hidden, cpc_layers) for name in names})
        self.dropout = Dropout(dropout)
        self.linear_1 = nn.Linear(hidden * len(names), hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)
        self.alpha, self.beta = LossWeight(alpha), LossWeight(beta)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]` and, while training, the losses named above."""
        hidden, present = self.unimodal(batch)
        joined = self.dropout(torch.cat(list(hidden.values()), -1))
        fused = torch.tanh(self.linear_2(torch.tanh(self.linear_1(joined))))
        losses = self._losses(hidden, present, fused) if self.training else {}
        return Output(self.head(fused), losses)

    def _losses(
        self, hidden: Mapping[str, Tensor], present: Mapping[str, Tensor], fused: Tensor
    ) -> dict[str, Tensor]:
        losses = [contrast(x, self.predictors[name](fused), present[name]) for name, x in hidden.items()]
        output = {"contrast": self.alpha(torch.stack(losses).sum())}
        if self.bounds:
            x, there = hidden[self.pivot], present[self.pivot]
            bounds = [net(x, hidden[name], there & present[name]) for name, net in self.bounds.items()]
            output["bound"] = self.beta(-torch.stack(bounds).sum())
        return output
