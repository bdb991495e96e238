"""MFN, the Memory Fusion Network.

Zadeh, Liang, Mazumder, Poria, Cambria, Morency, *Memory Fusion Network for Multi-view Sequential Learning*,
AAAI 2018. Shapes as in the classification variant of MERTools (MERBench, arXiv 2401.03429), whose attention
window is the paper's usual two frames. That variant asks for modalities of equal length; bringing unequal
ones onto one time axis is ours (`recurrent.align`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import Dropout, complete, in_order
from mer_zoo.models.recurrent import LSTM, Aligned, align, before


class TwoLayer(nn.Module):
    """Linear → ReLU → dropout → Linear.

    Args:
        features: Input width.
        hidden: Width between.
        out: Output width.
        dropout: Between.
    """

    def __init__(self, features: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, hidden)
        self.dropout = Dropout(dropout)
        self.linear_2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[…, features]` to `[…, out]`."""
        out: Tensor = self.linear_2(self.dropout(torch.relu(self.linear_1(x))))
        return out


class Gate(nn.Module):
    """A memory gate: sigmoid of a `TwoLayer` over [x_t ; memory], the part of x for all frames at once.

    Args:
        features: Width of x.
        hidden: Width between.
        memory: Memory width.
        dropout: Between.
    """

    def __init__(self, features: int, hidden: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.net = TwoLayer(features + memory, hidden, memory, dropout)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x's part of the first layer and the dropout factors, `[B, T, hidden]` both."""
        first = self.net.linear_1
        part = F.linear(x, first.weight[:, : self.features], first.bias)
        return part, self.net.dropout(torch.ones_like(part))

    def step(self, part: Tensor, keep: Tensor, memory: Tensor) -> Tensor:
        """Return the gate `[B, memory]` of one frame."""
        weight = self.net.linear_1.weight[:, self.features :]
        out: Tensor = self.net.linear_2(torch.relu(part + F.linear(memory, weight)) * keep)
        return out.sigmoid()


class GatedMemory(nn.Module):
    """The gated memory: u_t = keep · u_(t-1) + write · û_t, where û and the gates come from what is attended.

    Args:
        features: Width of what is attended.
        hidden: Width of the layers between.
        memory: Memory width.
        dropout: Between.
    """

    def __init__(self, features: int, hidden: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.memory = memory
        self.propose = TwoLayer(features, hidden, memory, dropout)
        self.keep = Gate(features, hidden, memory, dropout)
        self.write = Gate(features, hidden, memory, dropout)

    def forward(self, attended: Tensor, mask: Tensor) -> Tensor:
        """Map `[B, T, features]` to the last memory `[B, memory]`; it stands still on masked frames."""
        proposal = self.propose(attended).tanh()
        keep, write = self.keep.start(attended), self.write.start(attended)
        memory = attended.new_zeros((attended.shape[0], self.memory))
        for t in range(attended.shape[1]):
            kept = self.keep.step(keep[0][:, t], keep[1][:, t], memory)
            written = self.write.step(write[0][:, t], write[1][:, t], memory)
            new = kept * memory + written * proposal[:, t]
            memory = torch.where(mask[:, t].unsqueeze(-1), new, memory)
        return memory


class MemoryFusion(nn.Module):
    """MFN up to its last states: an LSTM per modality, attention over two frames' cells, the gated memory.

    Args:
        inputs: Width D per modality.
        hidden: State width of the LSTMs and width of the layers between.
        memory: Memory width.
        dropout: In the small networks.
    """

    def __init__(self, inputs: Mapping[str, int], hidden: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.names = in_order(inputs)
        self.lstms = nn.ModuleDict({name: LSTM(inputs[name], hidden) for name in self.names})
        window = 2 * hidden * len(self.names)
        self.attention = TwoLayer(window, hidden, window, dropout)
        self.memory = GatedMemory(window, hidden, memory, dropout)
        self.width = hidden * len(self.names) + memory

    def forward(self, aligned: Aligned) -> Tensor:
        """Return last states (zero where missing) and memory, `[B, modalities · hidden + memory]`."""
        last, cells = [], []
        for name in self.names:
            mask = aligned.mask & aligned.present[name].unsqueeze(1)
            h, c = self.lstms[name](aligned.features[name], mask)
            last.append(h[:, -1])
            cells.append(c)
        now = torch.cat(cells, -1)
        window = torch.cat([before(now), now], -1)
        attended = self.attention(window).softmax(-1) * window
        return torch.cat([*last, self.memory(attended, aligned.mask)], -1)


class MFN(nn.Module):
    """Memory fusion over one time axis → two layers → classifier.

    Args:
        inputs: Width D per modality; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        hidden: State width of the LSTMs and width of the layers between.
        memory: Memory width.
        dropout: In the small networks.
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
        steps: int = 64,
    ) -> None:
        super().__init__()
        self.inputs, self.steps = dict(inputs), steps
        self.fusion = MemoryFusion(inputs, hidden, memory, dropout)
        self.out = TwoLayer(self.fusion.width, hidden, hidden // 2, dropout)
        self.head = nn.Linear(hidden // 2, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        aligned = align(complete(batch, self.inputs), self.steps)
        return Output(self.head(self.out(self.fusion(aligned))))
