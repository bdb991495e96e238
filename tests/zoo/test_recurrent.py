"""Recurrence over masked frames, alignment of unequal sequences, and the memories built on them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Sequences
from mer_zoo.models.graph_mfn import DynamicFusionGraph
from mer_zoo.models.mfn import GatedMemory, MemoryFusion
from mer_zoo.models.recurrent import LSTM, Aligned, align, resample, shorten


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_is_torch_s(reverse: bool) -> None:
    """Without masked frames the LSTM is `torch.nn.LSTM` with the same weights, either way round."""
    ours, theirs = LSTM(3, 4), nn.LSTM(3, 4, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": p for name, p in ours.state_dict().items()})
    x = torch.randn(2, 5, 3)
    got, cells = ours(x, torch.ones(2, 5, dtype=torch.bool), reverse=reverse)
    want, (_, last) = theirs(x.flip(1) if reverse else x)
    torch.testing.assert_close(got, want.flip(1) if reverse else want)
    torch.testing.assert_close(cells[:, 0 if reverse else -1], last[0])


def test_lstm_stands_still() -> None:
    """Masked frames change no state, wherever they lie."""
    lstm, x = LSTM(3, 4), torch.randn(1, 5, 3)
    mask = torch.tensor([[False, True, False, True, False]])
    states, _ = lstm(x, mask)
    alone, _ = lstm(x[mask].unsqueeze(0), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(states[:, -1], alone[:, -1])
    assert not states[:, 0].any()


@pytest.mark.parametrize(("frames", "steps"), [(4, 2), (2, 4), (5, 3), (3, 3), (7, 1), (3, 5)])
def test_resample_is_adaptive_pooling(frames: int, steps: int) -> None:
    """Real frames between junk are pooled as `adaptive_avg_pool1d` pools them alone."""
    x = torch.randn(1, frames, 2)
    mask = torch.tensor([[False, *[True] * frames, False]])
    seq = Sequences(F.pad(x, (0, 0, 1, 1), value=9.0), mask)
    got = resample(seq, torch.tensor([steps]), steps + 1)
    want = F.adaptive_avg_pool1d(x.transpose(1, 2), steps).transpose(1, 2)
    torch.testing.assert_close(got[:, :steps], want)
    assert not got[:, steps].any()


def test_align_stretches_to_the_longest() -> None:
    """Each clip gets the length of its own longest modality, at most `steps`; single vectors are repeated."""
    audio = Sequences(torch.randn(3, 6, 2), torch.arange(6) < torch.tensor([[3], [6], [0]]))
    text = Sequences(torch.randn(3, 1, 2), torch.tensor([[True], [True], [False]]))
    aligned = align({"audio": audio, "text": text}, 4)
    assert aligned.mask.sum(1).tolist() == [3, 4, 0]
    assert aligned.present["audio"].tolist() == [True, True, False]
    torch.testing.assert_close(aligned.features["audio"][0, :3], audio.features[0, :3])
    torch.testing.assert_close(aligned.features["text"][1], text.features[1].expand(4, 2))
    assert not aligned.features["text"][2].any()


def test_shorten() -> None:
    """Short sequences are packed unchanged; long ones are averaged to `steps`."""
    x = torch.randn(1, 4, 2)
    mask = torch.tensor([[True, False, True, False]])
    short = shorten(Sequences(x, mask), 3)
    torch.testing.assert_close(short.features[0, :2], x[0, [0, 2]])
    assert short.mask.tolist() == [[True, True, False]]
    halved = shorten(Sequences(x, torch.ones(1, 4, dtype=torch.bool)), 2).features
    torch.testing.assert_close(halved, x.unflatten(1, (2, 2)).mean(2))


def test_gated_memory() -> None:
    """The memory is the paper's recurrence, step by step on concatenations."""
    memory, x = GatedMemory(3, 5, 4, 0.0), torch.randn(2, 6, 3)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    for clip, length in enumerate((6, 4)):
        u = torch.zeros(4)
        for t in range(length):
            both = torch.cat([x[clip, t], u])
            kept, written = memory.keep.net(both).sigmoid(), memory.write.net(both).sigmoid()
            u = kept * u + written * memory.propose(x[clip, t]).tanh()
        torch.testing.assert_close(memory(x, mask)[clip], u)


def test_memory_fusion_attends_to_two_frames() -> None:
    """What the memory reads is softmax attention times the cells of this frame and the one before."""
    fusion = MemoryFusion({"audio": 2, "text": 3}, 4, 5, 0.0)
    features = {"audio": torch.randn(1, 2, 2), "text": torch.randn(1, 2, 3)}
    there = torch.ones(1, dtype=torch.bool)
    aligned = Aligned(features, torch.ones(1, 2, dtype=torch.bool), {"audio": there, "text": there})
    seen: list[Tensor] = []
    fusion.memory.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    last = fusion(aligned)
    cells = torch.cat([fusion.lstms[n](features[n], aligned.mask)[1] for n in ("audio", "text")], -1)
    window = torch.cat([cells[:, 0], cells[:, 1]], -1)
    torch.testing.assert_close(seen[0][:, 1], fusion.attention(window).softmax(-1) * window)
    assert last.shape == (1, 2 * 4 + 5)


def test_fusion_graph() -> None:
    """Three modalities make 19 edges; with two, the summary is that of the weighted vertices."""
    assert DynamicFusionGraph(3, 4, 5).efficacy[-1].out_features == 19
    graph, a, b = DynamicFusionGraph(2, 4, 5), torch.randn(3, 4), torch.randn(3, 4)
    e = graph.efficacy(torch.cat([a, b], -1))
    both = graph.networks["0+1"](torch.cat([a * e[:, :1], b * e[:, 1:2]], -1))
    want = graph.summary(torch.cat([a * e[:, 2:3], b * e[:, 3:4], both * e[:, 4:5]], -1))
    torch.testing.assert_close(graph([a, b]), want)
