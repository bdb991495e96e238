import numpy as np
import pytest
import torch

from mer_featurestore.errors import UnknownName
from mer_plugins.layers import parse_layers
from mer_plugins.pooling import pool_down, pool_rows, pooled_shape


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
        ("weighted:0,.5,0,0.25", 3, (1, 3)),
        ("weighted:-1,1e-3", 1, (0, 1)),
    ],
)
def test_grammar(text: str, blocks: int, indices: tuple[int, ...]) -> None:
    """Every form names the layers it should."""
    assert parse_layers(text, blocks).indices == indices


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "5-2",
        "2-9",
        "lst4",
        "-1",
        "1,2",
        "",
        "last5",
        "1-",
        "²",
        "weighted:1,2",
        "weighted:0,0,0,0,0,0,0",
        "weighted:1,1,1,1,1,1,nan",
        "weighted:",
    ],
)
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
    weighted = parse_layers("weighted:1,0,0.5,-1", 3)
    assert torch.equal(weighted.combine(states), torch.full((2, 5, 3), 1 + 50 - 1000.0))
    assert weighted.row_shape(3) == (3,)
    assert weighted.made_by()["layer_weights"] == [1, 0.5, -1]
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


def test_pooling_down() -> None:
    """Rows within the same stretch of time are averaged, whatever the ratio, and each row counts once."""
    rows = np.arange(10, dtype=np.float32)[:, None]
    assert pool_down(rows, 50, 10)[:, 0].tolist() == [2, 7]
    assert pool_down(rows[:7], 50, 10)[:, 0].tolist() == [2, 5.5]
    assert np.array_equal(pool_down(rows, 50, 50), rows)
    assert len(pool_down(rows[:0], 50, 10)) == 0
    stacked = np.random.default_rng(0).standard_normal((333, 4, 3)).astype(np.float32)
    for wanted in (49.9, 30, 16.66, 7, 0.1):
        fewer = pool_down(stacked, 50, wanted)
        assert fewer.shape[1:] == (4, 3)
        assert len(fewer) == np.floor(332.5 / 50 * wanted + 1e-9) + 1
        times = np.floor((np.arange(333) + 0.5) / 50 * wanted + 1e-9)
        assert np.allclose(fewer[3 % len(fewer)], stacked[times == 3 % len(fewer)].mean(axis=0), atol=1e-6)
