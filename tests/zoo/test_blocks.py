"""The parts of fusion models."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch

from mer_zoo.contract import Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import (
    Attention,
    AttentionPool,
    Dropout,
    draw_noise,
    masked_softmax,
    noise_from,
    positions,
)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    """About `rate` of the elements become zero, and the rest are scaled by 1 / (1 - rate)."""
    torch.manual_seed(0)
    out = Dropout(rate).train()(torch.ones(200_001))
    assert abs(float((out == 0).float().mean()) - rate) < 0.005
    assert abs(float(out.mean()) - 1) < 0.02
    assert out.max() == pytest.approx(1 / (1 - rate), rel=1e-3)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, 1 - 1e-9, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    """A rate that would drop everything, or less than nothing, is an error and never a wrong scale."""
    with pytest.raises(ZooError, match="below 1"):
        Dropout(rate)


def test_dropout_is_off_in_evaluation() -> None:
    """Evaluation passes on the input itself."""
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x


def test_dropout_follows_the_seed() -> None:
    """The same seed drops the same elements, other seeds others."""

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(1000))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("source", [nullcontext(), noise_from(np.random.SFC64(0))])
def test_noise_is_uniform_over_all_bits(source: AbstractContextManager[None]) -> None:
    """16-bit noise covers negative and positive values alike, for sizes that are no multiple of four."""
    with source:
        noise = draw_noise((3, 33_333), torch.device("cpu")).float()
    assert abs(float(noise.mean())) < 400
    assert abs(float(noise.std()) - 2**16 / 12**0.5) < 400


def test_masked_softmax_of_nothing_is_zero() -> None:
    """A row that the mask blocks altogether has no weight, and no NaN."""
    mask = torch.tensor([[True, True, False], [False, False, False]])
    weights = masked_softmax(torch.tensor([[0.0, 0.0, 99.0], [1.0, 2.0, 3.0]]), mask)
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_attention_equals_torchs_own() -> None:
    """With the same weights, the attention block is torch's scaled dot-product attention."""
    torch.manual_seed(0)
    block = Attention(8, 2, 0.0)
    x, context, mask = torch.randn(3, 4, 8), torch.randn(3, 5, 8), torch.rand(3, 5) > 0.4
    mask[:, 0] = True
    k, v = block.context(context).chunk(2, -1)
    heads = [t.reshape(3, -1, 2, 4).transpose(1, 2) for t in (block.query(x), k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :])
    torch.testing.assert_close(block(x, context, mask), block.out(expected.transpose(1, 2).reshape(3, 4, 8)))


def test_pooling_weighs_real_frames_only() -> None:
    """Pooled weights sum to one over real frames."""
    features = torch.ones(2, 3, 4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    pooled = AttentionPool(4)(Sequences(features, mask))
    torch.testing.assert_close(pooled[0], torch.ones(4))
    assert pooled[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("dim", [7, 8])
def test_positions_differ(dim: int) -> None:
    """Every position has its own code, for even and odd widths."""
    codes = positions(50, dim, torch.zeros(()))
    assert codes.shape == (50, dim)
    assert len(codes.unique(dim=0)) == 50
