"""Selections, each on a round made by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer_featurestore.errors import UnknownName
from mer_zoo.ballots import ABSTAINS, Ballot, HeldOut, Select, Verdict
from mer_zoo.errors import ZooError
from mer_zoo.label_noise import doubts
from mer_zoo.selections import SELECTIONS, UNVOTED
from mer_zoo.strategies import complete, find_selection, selections
from mer_zoo.votes import VOTES, soft
from mer_zoo.voting import decide

CLASSES = ("a", "b", "c")


def of_confidence(label: list[int], confidence: list[float], **parts: object) -> tuple[Ballot, Verdict]:
    """Return a ballot and a verdict of these labels with these confidences, the rest shared by the others."""
    n = len(label)
    probs = np.repeat((1 - np.array(confidence, np.float32))[:, None] / 2, 3, 1)
    at = np.array(label)
    rows = np.flatnonzero(at >= 0)
    probs[rows, at[rows]] = np.array(confidence, np.float32)[rows]
    probs[at < 0] = 0
    cast = np.tile(at >= 0, (2, 1))
    ballot = Ballot(
        ("runs/m", "runs/n"), CLASSES, tuple(f"k{i}" for i in range(n)), np.stack([probs] * 2), cast
    )
    verdict = Verdict(
        at.astype(np.int16), probs, np.where(at >= 0, confidence, 0).astype(np.float32), **parts
    )
    return ballot, verdict


def with_held_out(
    ballot: Ballot, verdict: Verdict, truth: list[int], said: list[int], sure: list[float]
) -> tuple[Ballot, Verdict]:
    """Add held-out clips of these labels, with what was said of them."""
    held_ballot, held_verdict = of_confidence(said, sure)
    held = HeldOut(held_ballot, np.array(truth), np.arange(len(truth)) % 2 == 0)
    return replace(ballot, held_out=held), replace(verdict, held_out=held_verdict)


def select(name: str, pair: tuple[Ballot, Verdict], **params: object) -> tuple[list[bool], dict[str, object]]:
    """Return what a selection keeps, and its facts."""
    found = SELECTIONS[name].function(*pair, **params)
    assert len(found.reason) == len(found.kept)
    return found.kept.tolist(), dict(found.facts)


def test_given_thresholds_per_class() -> None:
    """A class that is named has its own threshold; the reason names class and threshold."""
    pair = of_confidence([0, 1, 1, 2], [0.88, 0.88, 0.84, 0.95])
    kept, facts = select("per-class", pair, threshold=0.9, thresholds={"b": 0.85})
    assert kept == [False, True, False, True]
    assert facts["thresholds"] == {"a": 0.9, "b": 0.85, "c": 0.9}
    reason = SELECTIONS["per-class"].function(*pair, thresholds={"b": 0.85}).reason
    assert reason[1:3] == ("confidence above 0.85 (b)", "confidence 0.85 or lower (b)")
    with pytest.raises(UnknownName, match="no class named 'worried'"):
        select("per-class", pair, thresholds={"worried": 0.8})
    with pytest.raises(ZooError, match=r"threshold of b is 1\.2"):
        select("per-class", pair, thresholds={"b": 1.2})


def test_learned_thresholds_reach_the_precision() -> None:
    """The lowest confidence from which on enough held-out clips are right; without one, nothing is kept."""
    truth = [0, 0, 0, 1, 0, 2, 2, 1, 1]
    said = [0, 0, 0, 0, 0, 1, 1, 1, 1]
    sure = [0.9, 0.8, 0.7, 0.6, 0.5, 0.9, 0.8, 0.7, 0.6]
    pair = with_held_out(*of_confidence([0, 0, 0, 1], [0.55, 0.65, 0.7, 0.99]), truth, said, sure)
    assert select("learned", pair, precision=0.99, least=3)[0] == [False, False, True, False]
    assert select("learned", pair, precision=0.8, least=3)[0] == [True, True, True, False]
    assert select("learned", pair, precision=0.5, least=4)[0][3]
    assert not select("learned", pair, precision=0.5, least=5)[0][3]
    reason = SELECTIONS["learned"].function(*pair, least=3).reason
    assert reason[3] == "no threshold has a precision of 0.9 on held-out clips (b)"


def test_equally_sure_clips_stand_or_fall_together() -> None:
    """A learned threshold never parts held-out clips of equal confidence."""
    pair = with_held_out(*of_confidence([0], [0.8]), [0, 1, 0], [0, 0, 0], [0.8, 0.8, 0.9])
    assert select("learned", pair, precision=1.0, least=1)[0] == [False]
    assert select("learned", pair, precision=0.6, least=1)[0] == [True]


def test_flexmatch_by_hand() -> None:
    """Three sure clips of a, one of b, none of c: b's threshold is M(1/3) of a's, and c's is 0."""
    pair = of_confidence([0, 0, 0, 1, 1, 1, 2], [0.95, 0.95, 0.95, 0.95, 0.19, 0.17, 0.34])
    kept, facts = select("flexmatch", pair, threshold=0.9, warm_up=False)
    assert facts["thresholds"] == pytest.approx({"a": 0.9, "b": 0.9 * (1 / 3) / (2 - 1 / 3), "c": 0})
    assert kept == [True, True, True, True, True, False, True]
    _, warm = select("flexmatch", of_confidence([0, 1, 1, 1, 1], [0.95] + [0.5] * 4), warm_up=True)
    assert warm["thresholds"]["a"] == pytest.approx(0.9 * 0.25 / 1.75)


def test_freematch_by_hand() -> None:
    """The global threshold is the mean confidence, scaled down for classes of a lower mean probability."""
    ballot, verdict = of_confidence([0, 1], [0.8, 0.6])
    _, facts = select("freematch", (ballot, verdict))
    mean = verdict.probs.mean(0)
    assert facts["thresholds"] == pytest.approx(
        dict(zip(CLASSES, 0.7 * mean / mean.max(), strict=True)), rel=1e-5
    )


def test_top_k_meets_the_target() -> None:
    """The surest of each class, in the target's proportions; equally sure ones by key."""
    pair = of_confidence([0] * 6 + [1] * 3, [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.9, 0.8, 0.8])
    kept, facts = select("top-k", pair, target={"a": 2, "b": 1})
    assert kept == [True] * 6 + [True] * 3
    kept, facts = select("top-k", pair, target={"a": 1, "b": 1})
    assert kept == [True] * 3 + [False] * 3 + [True] * 3
    kept, facts = select("top-k", pair, target="uniform", total=6)
    assert kept == [True, True] + [False] * 4 + [True, True, False]
    assert facts["kept"] == {"a": 2, "b": 2, "c": 0}
    assert select("top-k", pair, target={"a": 1}, minimum=0.65)[0] == [True] * 3 + [False] * 6
    train = with_held_out(*pair, [0, 1], [0, 1], [0.9, 0.9])
    assert select("top-k", train)[0] == [True] * 3 + [False] * 3 + [True] * 3
    shifted = (pair[0], replace(pair[1], facts={"prior": {"a": 0.75, "b": 0.25, "c": 0.0}}))
    assert select("top-k", shifted, target="estimated", total=4)[1]["kept"] == {"a": 3, "b": 1, "c": 0}
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        select("top-k", pair, target="trian")


def test_agreement_counts_members() -> None:
    """A label stands when enough members vote for it themselves."""
    first = [[0.9, 0.1, 0], [0.6, 0.4, 0], [0.9, 0.1, 0]]
    second = [[0.8, 0.2, 0], [0.1, 0.9, 0], [0.4, 0.6, 0]]
    probs, keys = np.array([first, second], np.float32), ("k0", "k1", "k2")
    cast = np.array([[True, True, True], [True, True, False]])
    ballot = Ballot(("runs/m", "runs/n"), CLASSES, keys, probs, cast)
    found = SELECTIONS["agreement"].function(ballot, soft(ballot), members=2)
    assert found.kept.tolist() == [True, False, False]
    assert found.reason[0] == "2 of 2 members agree"
    assert SELECTIONS["agreement"].function(ballot, soft(ballot), members=1).kept.all()
    with pytest.raises(ZooError, match="3 members cannot agree among 2"):
        SELECTIONS["agreement"].function(ballot, soft(ballot), members=3)


def test_softmatch_weighs_by_hand() -> None:
    """Above the mean a clip weighs 1, below it falls off as a normal curve."""
    ballot, verdict = of_confidence([0, 1, 2, -1], [0.9, 0.5, 0.7, 0.0])
    found = SELECTIONS["softmatch"].function(ballot, verdict)
    variance = np.var([0.9, 0.5, 0.7])
    assert found.weight.tolist() == pytest.approx([1, np.exp(-0.04 * 4 / (2 * variance)), 1, 0], rel=1e-5)
    assert found.kept.tolist() == [True, True, True, False]
    assert found.reason[3] == UNVOTED


def test_confident_learning_drops_doubtful_labels() -> None:
    """A label must reach its class's bar, and no other class that reaches its own may be likelier."""
    pair = of_confidence([0, 0, 1, 2], [0.8, 0.5, 0.65, 0.9])
    pair = with_held_out(*pair, [0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [0.7, 0.5, 0.7, 0.7, 0.95])
    kept, facts = select("confident", pair)
    assert kept == [True, False, False, False]
    assert facts["bars"] == pytest.approx({"a": 0.6, "b": 0.7, "c": 0.95})


def test_doubted_labels_are_the_swapped_ones() -> None:
    """Labels swapped on purpose are what confident learning doubts."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    probs = np.full((300, 3), 0.05)
    probs[np.arange(300), truth] = 0.9
    label = truth.copy()
    label[:20] = (truth[:20] + 1) % 3
    taken_for = doubts(probs, label)
    assert set(np.flatnonzero((taken_for >= 0) & (taken_for != label))) == set(range(20))


@pytest.mark.parametrize("name", ["threshold", "per-class", "agreement", "top-k"])
@settings(max_examples=25, deadline=None)
@given(
    sure=hnp.arrays(np.float32, 8, elements=st.floats(0.34375, 1, width=32)),
    label=st.lists(st.integers(-1, 2), min_size=8, max_size=8),
    limits=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_higher_threshold_keeps_no_more(
    name: str, sure: np.ndarray, label: list[int], limits: tuple[float, float]
) -> None:
    """What a high threshold keeps, a lower one keeps too."""
    pair = of_confidence(label, sure.tolist())
    at = {"top-k": "minimum"}.get(name, "threshold")
    extra = {"agreement": {"members": 1}, "top-k": {"target": {"a": 1.0}}}
    low, high = sorted(limits)
    many, few = (
        np.array(select(name, pair, **{at: limit, **extra.get(name, {})})[0]) for limit in (low, high)
    )
    assert not (few & ~many).any()


@pytest.mark.parametrize("name", selections())
def test_every_selection_is_complete(name: str) -> None:
    """Each, with its defaults, judges a whole round, keeps nothing nobody voted on, and states JSON facts."""
    rng = np.random.default_rng(1)
    probs = rng.dirichlet((1, 1, 1), (2, 20)).astype(np.float32)
    cast = rng.random((2, 12)) < 0.6
    held = HeldOut(
        Ballot(
            ("runs/m", "runs/n"),
            CLASSES,
            tuple(f"h{i}" for i in range(8)),
            probs[:, 12:],
            np.ones((2, 8), bool),
        ),
        np.array([0, 1, 2, 0, 1, 2, 0, 1]),
        np.arange(8) < 4,
    )
    keys = tuple(f"k{i}" for i in range(12))
    ballot = Ballot(("runs/m", "runs/n"), CLASSES, keys, probs[:, :12], cast, held)
    verdict = decide(ballot, VOTES["soft"], {})
    card = find_selection(name)
    found = card.function(ballot, verdict, **card.params)
    assert not (found.kept & (verdict.label == ABSTAINS)).any()
    assert len(found.reason) == 12
    assert all(found.reason)
    json.dumps(dict(found.facts), allow_nan=False)
    if found.weight is not None:
        assert ((found.weight >= 0) & (found.weight <= 1)).all()


@pytest.mark.parametrize("name", ["learned", "confident", "top-k"])
def test_learning_needs_held_out_clips(name: str) -> None:
    """Without out-of-fold predictions a selection that learns says so."""
    with pytest.raises(ZooError, match="learns from out-of-fold predictions"):
        select(name, of_confidence([0], [0.9]))


@pytest.mark.parametrize(("given_value", "expected"), [("0.8", 0.8), (1, 1.0), (0.5, 0.5)])
def test_parameters_are_typed(given_value: object, expected: float) -> None:
    """Numbers can be typed as text, and a whole number stands for a float."""
    found = complete(SELECTIONS["threshold"], {"threshold": given_value})["threshold"]
    assert (found, type(found)) == (expected, float)


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", "high"), ("threshold", True), ("members", 1.5), ("thresholds", 3), ("warm_up", 1)],
)
def test_wrong_kinds_are_refused(name: str, value: object) -> None:
    """A value of another kind than the default is an error that shows what to give."""
    card: Select = next(card for card in SELECTIONS.values() if name in card.params)
    with pytest.raises(ZooError, match="give something like"):
        complete(card, {name: value})
