"""The first half of most baselines: one encoder per modality, each giving one vector per clip."""

from collections.abc import Mapping

from torch import Tensor, nn

from mer_zoo.contract import Batch
from mer_zoo.errors import ZooError
from mer_zoo.models.attention import ENCODERS
from mer_zoo.models.blocks import complete, in_order


class Unimodal(nn.Module):
    """An encoder per modality: MLP over the mean of the frames, or the last state of an LSTM over them.

    Args:
        inputs: Width D per modality.
        hidden: Width h of every vector.
        dropout: On the raw input (`utt`) or on the LSTM's state (`frame`).
        level: `utt` or `frame`.

    Raises:
        ZooError: An unknown level.
    """

    def __init__(self, inputs: Mapping[str, int], hidden: int, dropout: float, level: str) -> None:
        super().__init__()
        if level not in ENCODERS:
            raise ZooError(f"there is no level {level!r}", "level is one of: " + ", ".join(ENCODERS))
        self.inputs = dict(inputs)
        self.encoders = nn.ModuleDict(
            {name: ENCODERS[level](inputs[name], hidden, dropout) for name in in_order(inputs)}
        )

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return per modality `[B, h]`, zero where it is missing, and `[B]` bool, where it is there."""
        hidden, present = {}, {}
        for name, sequences in complete(batch, self.inputs).items():
            present[name] = sequences.mask.any(-1)
            hidden[name] = self.encoders[name](sequences) * present[name].unsqueeze(-1)
        return hidden, present
