"""Attention fusion over several encoders per modality (MERTools, `attention_topn`).

Lian et al., *MERBench: A Unified Evaluation Benchmark for Multimodal Emotion Recognition*, arXiv 2401.03429,
and its toolkit, which takes the N encoders of each modality with the best results on their own;
`mer_zoo.topn.best` does so from validation scores.
"""

from collections.abc import Mapping

from mer_zoo.models.attention import AttentionFusion
from mer_zoo.topn import modality_of


class AttentionTopN(AttentionFusion):
    """`attention` with any number of inputs (`audio`, `audio-2`, …), each with an encoder and a weight.

    Args:
        inputs: Width D per input, named as in `mer_zoo.topn`; up to 18 as in MERTools.
        classes: Number of classes C.
        level: `utt` (mean over frames, then an MLP) or `frame` (LSTM, last state).
        hidden: Width h.
        dropout: On the raw inputs (`utt`) or the LSTM's state (`frame`), and on the concatenation.

    Raises:
        ZooError: An unknown level, or an input named after no modality.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        level: str = "utt",
        hidden: int = 128,
        dropout: float = 0.3,
    ) -> None:
        for name in inputs:
            modality_of(name)
        super().__init__(inputs, classes, level=level, hidden=hidden, dropout=dropout)
