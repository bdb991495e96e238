"""The auxiliary losses of the fusion models, against what their papers' formulas give."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mer_zoo.models import losses
from mer_zoo.models.mmim import LowerBound


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_orthogonality() -> None:
    """Zero for rows that vary in separate dimensions, positive for the same rows, blind to absent clips."""
    x, y = torch.zeros(6, 4), torch.zeros(6, 4)
    x[:, 0], y[:, 1] = torch.tensor([1.0, -1, 1, -1, 0, 0]), torch.tensor([1.0, 1, -1, -1, 0, 0])
    there = torch.tensor([True] * 4 + [False] * 2)
    assert losses.orthogonality(x, y, there).item() < 1e-12
    assert losses.orthogonality(x, x, there).item() == pytest.approx(4**2 / 4**2, rel=1e-4)
    noisy = torch.where(there.unsqueeze(1), x, torch.nan)
    assert losses.orthogonality(noisy, x, there).item() == pytest.approx(1.0, rel=1e-4)


def test_moment_discrepancy() -> None:
    """Zero, with a finite gradient, between a batch and itself; else the distances of the moments."""
    x = torch.rand(20, 3, requires_grad=True)
    y, all_of_them = torch.rand(20, 3), torch.ones(20, dtype=torch.bool)
    same = losses.moment_discrepancy(x, x, all_of_them)
    same.backward()
    assert same.item() == 0.0
    assert x.grad is not None
    assert x.grad.isfinite().all()
    want = (x.mean(0) - y.mean(0)).norm()
    for k in range(2, 6):
        moments = [((z - z.mean(0)) ** k).mean(0) for z in (x, y)]
        want = want + (moments[0] - moments[1]).norm()
    got = losses.moment_discrepancy(x, y, all_of_them)
    torch.testing.assert_close(got, want)
    padded = [torch.cat([z, torch.full((2, 3), torch.nan)]) for z in (x, y)]
    there = torch.cat([all_of_them, torch.zeros(2, dtype=torch.bool)])
    torch.testing.assert_close(losses.moment_discrepancy(*padded, there), want)


def test_contrast() -> None:
    """InfoNCE is the cross-entropy of picking one's own partner among the clips that are there."""
    x, y = torch.randn(5, 4), torch.randn(5, 4)
    there = torch.tensor([True, True, False, True, True])
    scores = F.normalize(x[there], dim=-1) @ F.normalize(y[there], dim=-1).T / 0.5
    want = F.cross_entropy(scores, torch.arange(4))
    torch.testing.assert_close(losses.contrast(x, y, there, 0.5), want)


def test_gaussian_discrepancy() -> None:
    """The closed form is the mean over samples of the prior, and grows as the code leaves it."""
    d, width = 3, 9.0
    z, everywhere = torch.randn(50, d) * 0.5 + 1, torch.ones(50, dtype=torch.bool)
    prior = torch.randn(4000, d)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / width).mean()

    want = kernel(prior[:2000], prior[2000:]) + kernel(z, z) - 2 * kernel(z, prior)
    got = losses.gaussian_discrepancy(z, everywhere)
    assert got.item() == pytest.approx(want.item(), abs=0.01)
    assert losses.gaussian_discrepancy(z + 2, everywhere).item() > got.item() + 0.1
    assert losses.gaussian_discrepancy(prior[:500], torch.ones(500, dtype=torch.bool)).item() < 0.01


def test_squared_error_counts_real_frames() -> None:
    """The mean is over real frames and features only."""
    x, mask = torch.zeros(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    y = torch.where(mask.unsqueeze(-1), 2.0, torch.nan).expand(2, 3, 4)
    assert losses.squared_error(x, y, mask).item() == 4.0


def test_lower_bound() -> None:
    """The bound is highest, zero, where y is what is predicted from x."""
    bound, x = LowerBound(4), torch.randn(6, 4)
    there = torch.ones(6, dtype=torch.bool)
    assert bound(x, bound.mean(x), there).item() == 0.0
    assert bound(x, bound.mean(x) + 1, there).item() < 0.0
