"""Attention fusion of adapted acoustic, aligned visual and lexical features; *reconstructed*.

Zhao, Chen, Li, Jiang, Xie, *Improving Multimodal Emotion Recognition by Leveraging Acoustic Adaptation and
Visual Alignment*, arXiv 2409.05015 (MER2024-SEMI, fourth place). The paper adapts the acoustic encoder,
pre-trains a visual encoder so that its features align with the acoustic space, and fuses with attention. The
fusion's equations are not published: everything here below that sentence is ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import AttentionPool, Dropout, TransformerBlock, complete, in_order
from mer_zoo.models.losses import LossWeight, contrast


class Token(nn.Module):
    """One modality as one vector: LayerNorm → dropout → Linear → ReLU → masked attention pooling → Linear.

    Args:
        features: Input width D.
        dim: Width d.
        dropout: On the normalised input.
    """

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(features, dim)
        self.pool = AttentionPool(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, sequences: Sequences) -> Tensor:
        """Map `[B, T, D]` to `[B, d]`."""
        frames = torch.relu(self.project(self.dropout(self.norm(sequences.features))))
        out: Tensor = self.out(self.pool(Sequences(frames, sequences.mask)))
        return out


class AlignAttention(nn.Module):
    """A token per modality → transformer blocks across the tokens → attention pooling (softmax) → classifier.

    Missing modalities are not attended to and have no share in the pooling. The loss `alignment`, off by
    default because alignment is the encoder's pre-training, keeps the audio and video tokens of a clip
    together (symmetric InfoNCE).

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each.
        classes: Number of classes C.
        hidden: Width d, divisible by `heads`.
        layers: Transformer blocks across the modalities.
        heads: Attention heads.
        dropout: On the inputs, in the blocks and before the classifier.
        align_weight: Weight of `alignment`.
        temperature: Of `alignment`.

    Raises:
        ZooError: A width that the heads do not divide.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.3,
        align_weight: float = 0.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ZooError(
                f"align-attention's hidden width {hidden} cannot be split over {heads} heads",
                "make hidden a multiple of heads",
            )
        self.inputs, self.temperature = dict(inputs), temperature
        names = in_order(inputs)
        self.tokens = nn.ModuleDict({name: Token(inputs[name], hidden, dropout) for name in names})
        self.kinds = nn.Parameter(torch.randn(len(names), hidden) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.pool = AttentionPool(hidden)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(hidden, classes)
        self.align_weight = LossWeight(align_weight)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]` and, while training on audio and video, the loss."""
        found = complete(batch, self.inputs)
        tokens = {name: self.tokens[name](seq) for name, seq in found.items()}
        mask = torch.stack([seq.mask.any(1) for seq in found.values()], 1)
        x = torch.where(mask.unsqueeze(-1), torch.stack(list(tokens.values()), 1) + self.kinds, 0.0)
        for block in self.blocks:
            x = block(x, mask)
        fused = self.pool(Sequences(self.norm(x), mask))
        return Output(self.head(self.dropout(fused)), self._losses(tokens, found) if self.training else {})

    def _losses(self, tokens: Mapping[str, Tensor], found: Mapping[str, Sequences]) -> dict[str, Tensor]:
        if not {"audio", "video"} <= tokens.keys():
            return {}
        audio, video = tokens["audio"], tokens["video"]
        there = found["audio"].mask.any(1) & found["video"].mask.any(1)
        both = [contrast(x, y, there, self.temperature) for x, y in ((audio, video), (video, audio))]
        return {"alignment": self.align_weight(torch.stack(both).mean())}
