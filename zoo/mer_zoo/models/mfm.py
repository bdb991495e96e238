"""MFM, the Multimodal Factorization Model.

Tsai, Liang, Zadeh, Morency, Salakhutdinov, *Learning Factorized Multimodal Representations*, ICLR 2019.
Shapes as in the classification variant of MERTools (MERBench, arXiv 2401.03429), less the layers of its inner
MFN that nothing reads. The discrepancy to the Gaussian prior is in closed form where that code draws samples
(`losses.gaussian_discrepancy`). Unequal lengths (`recurrent.align`), masks and missing modalities are ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import complete, in_order
from mer_zoo.models.losses import LossWeight, gaussian_discrepancy, squared_error
from mer_zoo.models.mfn import MemoryFusion, TwoLayer
from mer_zoo.models.recurrent import LSTM, Aligned, align


class Decoder(nn.Module):
    """LSTM that is fed a vector first and its own state afterwards, each state mapped to a frame.

    Args:
        dim: State width.
        features: Width D of the frames.
    """

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.lstm = LSTM(dim, dim)
        self.linear = nn.Linear(dim, features)

    def forward(self, start: Tensor, steps: int) -> Tensor:
        """Map `[B, d]` to `[B, steps, D]`."""
        h = c = torch.zeros_like(start)
        states, read = [], start
        for _ in range(steps):
            h, c = self.lstm.step(self.lstm.project(read), h, c)
            states.append(h)
            read = h
        out: Tensor = self.linear(torch.stack(states, 1))
        return out


class MFM(nn.Module):
    """One discriminative factor shared by all modalities (through MFN), one generative factor for each.

    The label is read from the shared factor alone; each modality is generated again from both.
    Losses: `prior`, the discrepancy of all four latent codes to N(0, I), and `generate_<modality>`, the
    squared error of each modality over its real frames.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        hidden: Width of the LSTMs and latent codes; the factors have hidden // 2.
        memory: Memory width of the inner MFN.
        dropout: In the small networks.
        prior_weight: Weight of `prior` (λ of the MMD term).
        text_weight: Weight of `generate_text`.
        audio_weight: Weight of `generate_audio`.
        video_weight: Weight of `generate_video`.
        steps: Longest time axis; longer clips are averaged down to it.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        hidden: int = 128,
        memory: int = 128,
        dropout: float = 0.3,
        prior_weight: float = 10.0,
        text_weight: float = 0.1,
        audio_weight: float = 0.1,
        video_weight: float = 0.1,
        steps: int = 64,
    ) -> None:
        super().__init__()
        self.inputs, self.steps = dict(inputs), steps
        self.names = in_order(inputs)
        width = hidden // 2
        self.encoders = nn.ModuleDict({name: LSTM(inputs[name], hidden) for name in self.names})
        self.codes = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in self.names})
        self.fusion = MemoryFusion(inputs, hidden, memory, dropout)
        self.shared_code = nn.Linear(self.fusion.width, hidden)
        self.factors = nn.ModuleDict({name: TwoLayer(hidden, width, width, dropout) for name in self.names})
        self.shared_factor = TwoLayer(hidden, width, width, dropout)
        self.decoders = nn.ModuleDict({name: Decoder(2 * width, inputs[name]) for name in self.names})
        self.out = TwoLayer(width, width, width, dropout)
        self.head = nn.Linear(width, classes)
        weights = {"audio": audio_weight, "video": video_weight, "text": text_weight}
        self.generate_weights = nn.ModuleDict(
            {name: LossWeight(weights.get(name, audio_weight)) for name in self.names}
        )
        self.prior_weight = LossWeight(prior_weight)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]` and, while training, the losses named above."""
        aligned = align(complete(batch, self.inputs), self.steps)
        shared = self.shared_code(self.fusion(aligned))
        factor = torch.relu(self.shared_factor(shared))
        logits = self.head(self.out(factor))
        return Output(logits, self._losses(aligned, shared, factor) if self.training else {})

    def _losses(self, aligned: Aligned, shared: Tensor, factor: Tensor) -> dict[str, Tensor]:
        prior = gaussian_discrepancy(shared, aligned.mask.any(1))
        losses = {}
        for name in self.names:
            there = aligned.present[name]
            mask = aligned.mask & there.unsqueeze(1)
            frames = aligned.features[name]
            code = self.codes[name](self.encoders[name](frames, mask)[0][:, -1])
            prior = prior + gaussian_discrepancy(code, there)
            both = torch.cat([factor, torch.relu(self.factors[name](code))], -1)
            generated = self.decoders[name](both, frames.shape[1])
            losses[f"generate_{name}"] = self.generate_weights[name](squared_error(generated, frames, mask))
        losses["prior"] = self.prior_weight(prior)
        return losses
