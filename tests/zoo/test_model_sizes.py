"""The fusion models have the sizes of MERTools' variants, counted layer by layer."""

from collections.abc import Callable

import pytest

from mer_zoo.models.cards import BASELINES

CARDS = {card.name: card for card in BASELINES}
DIMS = {"audio": 6, "video": 5, "text": 7}


def linear(i: int, o: int) -> int:
    """Parameters of a Linear."""
    return i * o + o


def lstm(i: int, h: int) -> int:
    """Parameters of a one-layer LSTM."""
    return 4 * h * (i + h) + 8 * h


def encoders(h: int, level: str) -> int:
    """Parameters of MERTools' unimodal encoders."""
    if level == "frame":
        return sum(lstm(d, h) + linear(h, h) for d in DIMS.values())
    return sum(linear(d, h) + 2 * linear(h, h) for d in DIMS.values())


def transformer(d: int, ffn: int) -> int:
    """Parameters of a transformer layer."""
    return 4 * linear(d, d) + linear(d, ffn) + linear(ffn, d) + 4 * d


def gates(attended: int, h: int, m: int) -> int:
    """Parameters of MFN's proposal and gates."""
    return linear(attended, h) + 3 * linear(h, m) + 2 * linear(attended + m, h)


C, H, M = 6, 16, 8
ALL_D = sum(DIMS.values())
OUT = linear(3 * H + M, H) + linear(H, H // 2)
LSTMS = sum(lstm(d, H) for d in DIMS.values())
MFN = LSTMS + linear(6 * H, H) + linear(H, 6 * H) + gates(6 * H, H, M)
GRAPH = 3 * (linear(2 * H, 100) + linear(100, H)) + 2 * (linear(6 * H, 100) + linear(100, H))
GRAPH += linear(7 * H, 100) - linear(6 * H, 100)  # the summary reads all seven vertices
GRAPH += linear(3 * H, 100) + linear(100, H) + linear(H, 19)
MERTOOLS: dict[str, tuple[dict[str, int], Callable[[str], int]]] = {
    "attention-topn": (
        {},
        lambda level: encoders(H, level) + linear(3 * H, H) + 2 * linear(H, H) + linear(H, 3) + linear(H, C),
    ),
    "lf-dnn": ({}, lambda level: encoders(H, level) + linear(3 * H, H) + linear(H, H) + linear(H, C)),
    "tfn": ({}, lambda level: encoders(H, level) + linear((H + 1) ** 3, H) + linear(H, H) + linear(H, C)),
    "lmf": (
        {"rank": 4},
        lambda level: encoders(H, level) + 3 * 4 * (H + 1) * (H // 2) + 4 + H // 2 + linear(H // 2, C),
    ),
    "ef-lstm": ({"layers": 3}, lambda _: lstm(ALL_D, H) + 2 * lstm(H, H) + linear(H, H) + linear(H, C)),
    "mfn": ({"memory": M}, lambda _: MFN + OUT + linear(H // 2, C)),
    "graph-mfn": (
        {"memory": M},
        lambda _: LSTMS + 3 * linear(2 * H, H) + GRAPH + gates(H, H, M) + OUT + linear(H // 2, C),
    ),
    "mfm": (
        {"memory": M},
        lambda _: (
            (LSTMS + 3 * linear(H, H))
            + (3 * lstm(H, H) + sum(linear(H, d) for d in DIMS.values()))
            + (MFN + linear(3 * H + M, H))
            + 4 * (linear(H, H // 2) + linear(H // 2, H // 2))
            + (2 * linear(H // 2, H // 2) + linear(H // 2, C))
        ),
    ),
    "misa": (
        {},
        lambda level: (
            encoders(H, level)
            + (10 * linear(H, H) + 3 * 2 * H)
            + transformer(H, 2048)
            + (linear(6 * H, 3 * H) + linear(3 * H, H // 2) + linear(H // 2, C))
        ),
    ),
    "mmim": (  # theirs also builds two entropy projections that nothing reads
        {"cpc_layers": 2},
        lambda level: (
            encoders(H, level)
            + 2 * 4 * linear(H, H)
            + 3 * 2 * linear(H, H)
            + linear(3 * H, H)
            + linear(H, H)
            + linear(H, C)
        ),
    ),
    "mult": (
        {"layers": 2, "heads": 2, "kernel": 3},
        lambda _: (
            3 * H * ALL_D
            + 6 * (2 * transformer(H, 4 * H) + 2 * H)
            + 3 * (3 * transformer(2 * H, 8 * H) + 4 * H)
            + (2 * linear(6 * H, 6 * H) + linear(6 * H, H // 2) + linear(H // 2, C))
        ),
    ),
}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (n, level)
        for n in MERTOOLS
        for level in ("utt", "frame")
        if level == "utt" or "level" in CARDS[n].params
    ],
)
def test_parameter_counts_are_mertools(name: str, level: str) -> None:
    """A model has as many parameters as MERTools' of the same widths, less its head for valence."""
    card, (params, count) = CARDS[name], MERTOOLS[name]
    if "level" in card.params:
        params = {**params, "level": level}
    model = card.build(inputs=DIMS, classes=C, hidden=H, **params)
    assert sum(p.numel() for p in model.parameters()) == count(level)
