"""AGT, the Audio-Guided Transformer.

Shi and Gao, *Audio-Guided Fusion Techniques for Multimodal Emotion Analysis*, arXiv 2409.05007 (MER2024-SEMI,
third place). The paper names the parts (audio guides vision and text through
Context-Based Transformer blocks, covering intra- and inter-channel information; Adaptive Multimodal Fusion
computes similarity and suppresses cross-modal interference) and does not publish their equations. Everything
below the names is *reconstructed*, and each choice that could have been made otherwise is a parameter or is
said in a docstring.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import (
    AttentionPool,
    Dropout,
    SequenceEncoder,
    TransformerBlock,
    complete,
    in_order,
)

GUIDES = ("audio", "video", "text", "none")


class CBT(nn.Module):
    """Context-Based Transformer block between the guide and one guided modality; *reconstructed*.

    Both directions: the guide first reads the modality (guide = query), then the modality reads the guide so
    informed (modality = query), each time with residual and FFN, masked.

    Args:
        dim: Width d.
        heads: Attention heads.
        dropout: Inside the blocks.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.guide_reads = TransformerBlock(dim, heads, dropout, cross=True)
        self.guided_reads = TransformerBlock(dim, heads, dropout, cross=True)

    def forward(self, guide: Sequences, guided: Sequences) -> Sequences:
        """Map guide `[B, Tg, d]` and guided `[B, Tm, d]` to the guided in the guide's light, `[B, Tm, d]`."""
        informed = self.guide_reads(guide.features, guided.mask, guided.features)
        return Sequences(self.guided_reads(guided.features, guide.mask, informed), guided.mask)


class AMF(nn.Module):
    """Adaptive Multimodal Fusion: a gate per guided modality by its similarity to the guide; *reconstructed*.

    s_m = cos(P z_guide, P_m z_m) / τ and g_m = sigmoid(s_m + b_m), so that a modality which says something
    else than the guide is turned down.

    Args:
        guided: Names of the gated modalities.
        dim: Width d.
        temperature: τ.
    """

    def __init__(self, guided: Sequence[str], dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.project = nn.Linear(dim, dim)
        self.project_guided = nn.ModuleDict({name: nn.Linear(dim, dim) for name in guided})
        self.bias = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in guided})

    def forward(self, guide: Tensor, guided: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gated vectors, `[B, d]` each."""
        anchor = self.project(guide)
        fused = {}
        for name, z in guided.items():
            similarity = F.cosine_similarity(anchor, self.project_guided[name](z), dim=-1) / self.temperature
            fused[name] = torch.sigmoid(similarity + self.bias[name]).unsqueeze(-1) * z
        return fused


class AGT(nn.Module):
    """Audio-guided fusion of any of audio, video and text, on sequences or single vectors.

    Per modality: LayerNorm → Linear to d → transformer encoder (intra-channel); CBT between the guide and
    every other modality (inter-channel); masked attention pooling; AMF; the concatenation [z_guide ; g_m·z_m
    …] → MLP → logits.

    With `guide="none"` all modalities are equal: there is no CBT, and AMF compares each with the mean of the
    present ones. A clip without the guide (and a model built without it) gets a learned token in the guide's
    place. A missing guided modality contributes zeros. Sequence order enters through sinusoidal positions
    (*reconstructed*).

    Args:
        inputs: Width D per modality.
        classes: Number of classes C.
        guide: `audio` (the paper), `video`, `text` or `none`.
        cbt: Whether the guide and the others attend to each other.
        amf: Whether the similarity gate is applied.
        hidden: Width d, divisible by `heads`.
        layers: Transformer blocks per modality.
        heads: Attention heads.
        dropout: Everywhere.
        temperature: τ of AMF.

    Raises:
        ZooError: An unknown guide, or a width that the heads do not divide.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        guide: str = "audio",
        cbt: bool = True,
        amf: bool = True,
        hidden: int = 64,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.3,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        _check(guide, hidden, heads)
        self.inputs, self.guide = dict(inputs), guide
        names = in_order(inputs)
        self.guided = [name for name in names if name != guide]
        self.encoders = nn.ModuleDict(
            {name: SequenceEncoder(inputs[name], hidden, layers, heads, dropout) for name in names}
        )
        self.pools = nn.ModuleDict({name: AttentionPool(hidden) for name in names})
        self.token = nn.Parameter(torch.randn(hidden) * 0.02) if guide != "none" else None
        with_cbt = self.guided if cbt and guide != "none" else []
        self.cbt = nn.ModuleDict({name: CBT(hidden, heads, dropout) for name in with_cbt})
        self.amf = AMF(self.guided, hidden, temperature) if amf and self.guided else None
        width = hidden * (len(self.guided) + (guide != "none"))
        self.head = nn.Sequential(
            Dropout(dropout),
            nn.Linear(width, hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        encoded = {name: self.encoders[name](seq) for name, seq in complete(batch, self.inputs).items()}
        if self.token is None:
            guide, pooled = None, self._pool(encoded)
            anchor = _mean_of_present(pooled, encoded)
        else:
            guide = self._guide(encoded, self.token)
            anchor = self.pools[self.guide](guide) if self.guide in self.pools else guide.features[:, 0]
            pooled = self._pool({name: self._inform(name, guide, encoded[name]) for name in self.guided})
        fused = self.amf(anchor, pooled) if self.amf is not None else pooled
        parts = [fused[name] for name in self.guided]
        return Output(self.head(torch.cat(parts if guide is None else [anchor, *parts], -1)))

    def _guide(self, encoded: Mapping[str, Sequences], token: Tensor) -> Sequences:
        if self.guide in encoded:
            features, mask = encoded[self.guide]
        else:
            some = next(iter(encoded.values()))
            features = some.features.new_zeros((some.features.shape[0], 1, len(token)))
            mask = some.mask.new_zeros(features.shape[:2])
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        stand_in = ~mask.any(1, keepdim=True) & first
        return Sequences(torch.where(stand_in.unsqueeze(-1), token, features), mask | stand_in)

    def _inform(self, name: str, guide: Sequences, guided: Sequences) -> Sequences:
        if name not in self.cbt:
            return guided
        informed: Sequences = self.cbt[name](guide, guided)
        return informed

    def _pool(self, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        return {name: self.pools[name](sequences[name]) for name in self.guided}


def _mean_of_present(pooled: Mapping[str, Tensor], encoded: Mapping[str, Sequences]) -> Tensor:
    present = torch.stack([encoded[name].mask.any(1) for name in pooled])
    total = torch.stack(list(pooled.values())).sum(0)  # what is missing is zero already
    return total / present.sum(0).clamp(min=1).unsqueeze(-1)


def _check(guide: str, hidden: int, heads: int) -> None:
    if guide not in GUIDES:
        raise ZooError(f"agt cannot be guided by {guide!r}", "guide is one of: " + ", ".join(GUIDES))
    if hidden % heads:
        raise ZooError(
            f"agt's hidden width {hidden} cannot be split over {heads} heads",
            "make hidden a multiple of heads",
        )
