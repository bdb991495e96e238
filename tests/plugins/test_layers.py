import numpy as np
import pytest
import torch

from mer_featurestore.errors import UnknownName
from mer_plugins.layers import parse_layers
from mer_plugins.pooling import pool_rows, pooled_shape


@pytest.mark.parametrize(
    ("text", "blocks", "indices"),
    [
        ("last", 6, (6,)),
        ("last4", 6, (3, 4, 5, 6)),
        ("last4", 2, (1, 2)),
        ("0", 6, (0,)),
        (" 3 ", 6, (3,)),
        ("2-5", 6, (2, 3, 4, 5)),
        ("4-4", 6, (4,)),
        ("all", 3, (0, 1, 2, 3)),
    ],
)
def test_grammar(text: str, blocks: int, indices: tuple[int, ...]) -> None:
    """Every form names the layers it should."""
    assert parse_layers(text, blocks).indices == indices


@pytest.mark.parametrize("text", ["7", "5-2", "2-9", "lst4", "-1", "1,2", "", "last5", "1-", "²"])
def test_nonsense(text: str) -> None:
    """What is no layer is refused with what there is."""
    with pytest.raises(UnknownName, match="layers 0 to 6: say last, last4, all"):
        parse_layers(text, 6)


def test_did_you_mean() -> None:
    """A misspelt word is answered with the nearest one."""
    with pytest.raises(UnknownName, match="did you mean 'last4'"):
        parse_layers("lats4", 6)


def test_equal_layers_have_equal_fingerprints() -> None:
    """However they are written, the same layers are the same."""
    assert parse_layers("last4", 6).made_by() == parse_layers("3-6", 6).made_by()
    assert parse_layers("all", 3).made_by() != parse_layers("0-3", 3).made_by()


def test_combine() -> None:
    """Layers are summed; `all` stacks them on an axis before the last."""
    states = {k: torch.full((2, 5, 3), float(10**k)) for k in range(4)}
    assert torch.equal(parse_layers("1-3", 3).combine(states), torch.full((2, 5, 3), 1110.0))
    stacked = parse_layers("all", 3).combine(states)
    assert stacked.shape == (2, 5, 4, 3)
    assert stacked[0, 0, :, 0].tolist() == [1, 10, 100, 1000]
    assert parse_layers("all", 3).row_shape(3) == (4, 3)
    assert parse_layers("last4", 3).row_shape(3) == (3,)


def test_pooling() -> None:
    """Mean, standard deviation (n - 1) and maximum are numpy's, in the shape that is declared."""
    rows = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    assert np.allclose(pool_rows("mean", rows), rows.mean(axis=0), atol=1e-6)
    assert np.array_equal(pool_rows("max", rows), rows.max(axis=0))
    both = pool_rows("mean-std", rows)
    assert np.allclose(
        both, np.concatenate([rows.mean(axis=0), rows.std(axis=0, ddof=1)], axis=-1), atol=1e-6
    )
    assert both.shape == pooled_shape("mean-std", (2, 3)) == (2, 6)
    assert not pool_rows("mean-std", rows[:1])[:, 3:].any()
    assert both.dtype == np.float32
