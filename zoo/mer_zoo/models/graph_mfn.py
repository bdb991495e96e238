"""Graph-MFN: MFN with a Dynamic Fusion Graph in place of its attention.

Zadeh, Liang, Poria, Cambria, Morency, *Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and
Interpretable Dynamic Fusion Graph*, ACL 2018. Shapes as in the classification variant of MERTools (MERBench,
arXiv 2401.03429), with the graph's own networks registered, so that they are trained (there they are not); as
there, efficacies are not squashed and the graph's networks have no activation. Unequal lengths: see
`recurrent.align`.
"""

from collections.abc import Mapping
from itertools import chain, combinations

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, Output
from mer_zoo.models.blocks import complete, in_order
from mer_zoo.models.mfn import GatedMemory, TwoLayer
from mer_zoo.models.recurrent import LSTM, align, before

Vertex = tuple[int, ...]


def subsets(vertex: Vertex) -> list[Vertex]:
    """Return the proper, non-empty subsets of a vertex, small ones first: what it receives from."""
    return list(chain.from_iterable(combinations(vertex, size) for size in range(1, len(vertex))))


class DynamicFusionGraph(nn.Module):
    """A vertex per non-empty set of modalities, each fed by its subsets, every edge weighted by an efficacy.

    The efficacies are computed from the single modalities; the summary is fed by all vertices.

    Args:
        modalities: How many; at least two.
        dim: Width of every vertex.
        inner: Width inside the vertices' networks.
    """

    def __init__(self, modalities: int, dim: int, inner: int) -> None:
        super().__init__()
        every = tuple(range(modalities))
        self.vertices = [v for v in [*subsets(every), every] if len(v) > 1]
        self.all = [*subsets(every), every]
        fed_by = {_name(v): len(subsets(v)) for v in self.vertices}
        self.networks = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(n * dim, inner), nn.Linear(inner, dim))
                for name, n in fed_by.items()
            }
        )
        self.summary = nn.Sequential(nn.Linear(len(self.all) * dim, inner), nn.Linear(inner, dim))
        edges = sum(fed_by.values()) + len(self.all)
        self.efficacy = nn.Sequential(
            nn.Linear(modalities * dim, inner), nn.Linear(inner, dim), nn.Linear(dim, edges)
        )

    def forward(self, singles: list[Tensor]) -> Tensor:
        """Map one `[…, dim]` per modality to the summary `[…, dim]`."""
        values: dict[Vertex, Tensor] = {(i,): x for i, x in enumerate(singles)}
        efficacies = iter(self.efficacy(torch.cat(singles, -1)).split(1, -1))
        for vertex in self.vertices:
            parts = [values[s] * next(efficacies) for s in subsets(vertex)]
            values[vertex] = self.networks[_name(vertex)](torch.cat(parts, -1))
        out: Tensor = self.summary(torch.cat([values[v] * next(efficacies) for v in self.all], -1))
        return out


class GraphMFN(nn.Module):
    """LSTMs, the fusion graph over two frames' states, the gated memory, two layers, classifier.

    Args:
        inputs: Width D per modality, at least two; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        hidden: State width of the LSTMs, the graph's vertices and the layers between.
        memory: Memory width.
        inner: Width inside the graph's networks.
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
        inner: int = 100,
        dropout: float = 0.3,
        steps: int = 64,
    ) -> None:
        super().__init__()
        self.inputs, self.steps = dict(inputs), steps
        self.names = in_order(inputs)
        self.lstms = nn.ModuleDict({name: LSTM(inputs[name], hidden) for name in self.names})
        self.singles = nn.ModuleDict({name: nn.Linear(2 * hidden, hidden) for name in self.names})
        self.graph = DynamicFusionGraph(len(self.names), hidden, inner)
        self.memory = GatedMemory(hidden, hidden, memory, dropout)
        self.out = TwoLayer(hidden * len(self.names) + memory, hidden, hidden // 2, dropout)
        self.head = nn.Linear(hidden // 2, classes)

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]`."""
        aligned = align(complete(batch, self.inputs), self.steps)
        last, singles = [], []
        for name in self.names:
            there = aligned.present[name].unsqueeze(1)
            h, _ = self.lstms[name](aligned.features[name], aligned.mask & there)
            last.append(h[:, -1])
            single = torch.relu(self.singles[name](torch.cat([before(h), h], -1)))
            singles.append(single * there.unsqueeze(-1))
        memory = self.memory(self.graph(singles), aligned.mask)
        return Output(self.head(self.out(torch.cat([*last, memory], -1))))


def _name(vertex: Vertex) -> str:
    return "+".join(map(str, vertex))
