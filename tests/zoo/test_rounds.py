"""Votes, selections and rounds of pseudo-labels."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import BadInput, NameTaken, UnknownName
from mer_zoo.ballots import ABSTAINS, Ballot, HeldOut
from mer_zoo.errors import ZooError
from mer_zoo.pseudo_label import NothingKept, pseudo_label
from mer_zoo.selections import SELECTIONS, threshold
from mer_zoo.settings import Settings
from mer_zoo.train import train
from mer_zoo.votes import VOTES, majority, soft, weighted
from mer_zoo.voting import decide

C = 3


def ballot(probs: np.ndarray, cast: np.ndarray | None = None, names: tuple[str, ...] | None = None) -> Ballot:
    """Return a ballot of `[M, n, C]` probabilities."""
    probs = np.asarray(probs, np.float32)
    M, n, classes = probs.shape
    cast = np.ones((M, n), np.bool_) if cast is None else np.asarray(cast, np.bool_)
    names = names or tuple(f"runs/m{i}" for i in range(M))
    return Ballot(names, tuple("abc"[:classes]), tuple(f"k{i}" for i in range(n)), probs, cast)


def with_held_out(given_ballot: Ballot, label: np.ndarray, held: Ballot) -> Ballot:
    """Return the ballot with labelled clips beside it, every second one in the other half."""
    return replace(given_ballot, held_out=HeldOut(held, np.asarray(label), np.arange(len(label)) % 2 == 1))


@st.composite
def ballots(draw: st.DrawFn) -> Ballot:
    """Draw a ballot with abstentions."""
    M, n = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    raw = draw(hnp.arrays(np.float32, (M, n + 6, C), elements=st.floats(0.015625, 1, width=32)))
    cast = draw(hnp.arrays(np.bool_, (M, n)))
    probs = raw / raw.sum(2, keepdims=True)
    label = np.array(draw(st.permutations([0, 1, 2, 0, 1, 2])))
    return with_held_out(ballot(probs[:, :n], cast), label, ballot(probs[:, n:]))


def mixed_up(given_ballot: Ballot, order: list[int]) -> Ballot:
    """Return the ballot with its members in another order."""
    names = tuple(given_ballot.members[i] for i in order)
    held = given_ballot.held_out
    return with_held_out(
        ballot(given_ballot.probs[order], given_ballot.cast[order], names),
        held.label,
        ballot(held.ballot.probs[order], None, names),
    )


@pytest.mark.parametrize("name", VOTES)
@settings(max_examples=25, deadline=None)
@given(given_ballot=ballots(), data=st.data())
def test_members_have_no_order(name: str, given_ballot: Ballot, data: st.DataObject) -> None:
    """Every vote is the same, to the bit, for any order of the members."""
    order = data.draw(st.permutations(range(len(given_ballot.members))))
    params = {"weights": {"m0": {"b": 2.5}, "runs/m0": {"c": 0.5}}} if name == "weighted" else {}
    first, second = (
        decide(b, VOTES[name], {**VOTES[name].params, **params})
        for b in (given_ballot, mixed_up(given_ballot, order))
    )
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.probs, second.probs)
    np.testing.assert_array_equal(first.confidence, second.confidence)
    np.testing.assert_array_equal(first.held_out.probs, second.held_out.probs)


@pytest.mark.parametrize("name", VOTES)
@settings(max_examples=40, deadline=None)
@given(given_ballot=ballots())
def test_a_verdict_is_a_distribution(name: str, given_ballot: Ballot) -> None:
    """Probabilities sum to one and confidence is one of them; where all abstain nothing is said or kept."""
    verdict = VOTES[name].function(given_ballot)
    voted = given_ballot.cast.any(0)
    np.testing.assert_allclose(verdict.probs.sum(1), voted, atol=1e-5)
    assert (verdict.label[~voted] == ABSTAINS).all()
    assert (verdict.confidence[~voted] == 0).all()
    rows = np.flatnonzero(voted)
    np.testing.assert_array_equal(verdict.confidence[rows], verdict.probs[rows, verdict.label[rows]])
    assert not threshold(given_ballot, verdict, threshold=0.0).kept[~voted].any()


@pytest.mark.parametrize("name", [name for name, vote in VOTES.items() if not vote.invents])
@settings(max_examples=40, deadline=None)
@given(given_ballot=ballots())
def test_a_vote_invents_no_class(name: str, given_ballot: Ballot) -> None:
    """The winner is a class somebody voted for, unless the strategy says that it may not be."""
    verdict = VOTES[name].function(given_ballot)
    for label, votes in zip(verdict.label, given_ballot.votes, strict=True):
        cast = votes[votes != ABSTAINS]
        assert label in cast if len(cast) else label == ABSTAINS


@settings(max_examples=40, deadline=None)
@given(given_ballot=ballots())
def test_the_majority_has_most_votes(given_ballot: Ballot) -> None:
    """Majority is the definition, counted by hand; a matrix of ones says the same, to the bit."""
    verdict = majority(given_ballot)
    for i, votes in enumerate(given_ballot.votes):
        cast = votes[votes != ABSTAINS].tolist()
        if cast:
            counts = [cast.count(c) for c in range(C)]
            tied = [c for c in range(C) if counts[c] == max(counts)]
            mean = given_ballot.mean[i][tied]
            assert verdict.label[i] in np.array(tied)[mean >= mean.max() - 1e-6]
    ones = weighted(given_ballot, weights={m: dict.fromkeys("abc", 1.0) for m in given_ballot.members})
    np.testing.assert_array_equal(ones.label, verdict.label)
    np.testing.assert_array_equal(ones.probs, verdict.probs)


@settings(max_examples=40, deadline=None)
@given(given_ballot=ballots(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_threshold_keeps_no_more(given_ballot: Ballot, low: float, high: float) -> None:
    """What a high threshold keeps, a lower one keeps too."""
    low, high = sorted((low, high))
    verdict = soft(given_ballot)
    few, many = (threshold(given_ballot, verdict, threshold=t).kept for t in (high, low))
    assert not (few & ~many).any()


def test_soft_and_majority_differ() -> None:
    """Two lukewarm votes beat one sure one by majority, not by mean."""
    votes = ballot([[[0.6, 0.4, 0]], [[0.6, 0.4, 0]], [[0.0, 1.0, 0]]])
    assert majority(votes).label.tolist() == [0]
    assert soft(votes).label.tolist() == [1]
    assert majority(votes).confidence[0] == pytest.approx(0.4)


def test_a_tie_goes_to_the_higher_mean() -> None:
    """One vote each: the surer member decides; exactly equal, the first class."""
    assert majority(ballot([[[0.6, 0.4, 0]], [[0.1, 0.9, 0]]])).label.tolist() == [1]
    assert majority(ballot([[[0.6, 0.4, 0]], [[0.4, 0.6, 0]]])).label.tolist() == [0]


def test_an_abstention_counts_nothing() -> None:
    """A member without features of a clip neither votes nor thins the mean."""
    votes = ballot([[[0.9, 0.1, 0]], [[0.0, 1.0, 0]]], [[True], [False]])
    verdict = soft(votes)
    np.testing.assert_allclose(verdict.probs, [[0.9, 0.1, 0]], atol=1e-6)
    assert votes.votes.tolist() == [[0, ABSTAINS]]


def test_exactly_the_threshold_is_not_enough() -> None:
    """The threshold must be exceeded, as in the paper, and the reason says so."""
    votes = ballot([[[0.5, 0.5, 0], [0.75, 0.25, 0]]])
    selection = threshold(votes, soft(votes), threshold=0.5)
    assert selection.kept.tolist() == [False, True]
    assert selection.reason == ("confidence 0.5 or lower", "confidence above 0.5")
    with pytest.raises(ZooError, match="between 0 and 1"):
        threshold(votes, soft(votes), threshold=1.5)


def test_tables_state_the_parameters() -> None:
    """Each strategy's stated parameters are its function's keywords with their defaults."""
    for table, skip in ((VOTES, 1), (SELECTIONS, 2)):
        for entry in table.values():
            parameters = list(inspect.signature(entry.function).parameters.values())[skip:]
            assert {p.name: p.default for p in parameters} == dict(entry.params)


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> Store:
    """Return a store with runs `fused` and `heard`, and `round1` that they made."""
    store = toy(tmp_path_factory.mktemp("voted") / "store")
    quick = {"folds": 2, "params": {"hidden": 16}, "settings": Settings(epochs=8, lr=1e-2)}
    train(store, "mlp", name="fused", **quick)
    train(store, "mlp", features=["sound-UTT"], name="heard", **quick)
    pseudo_label(store, ["fused", "heard"], threshold=0.6, command="typed")
    return store


def test_a_round_says_how_it_was_made(voted: Store) -> None:
    """The layer holds votes, confidence, reasons, members, parents, parameters, and the commit read."""
    layer = voted.labels["round1"]
    assert layer.members == ("runs/fused", "runs/heard")
    assert set(layer.parents) == {"labels/gold", "runs/fused", "runs/heard"}
    assert len(layer) == 30
    assert (layer.source == 1).all()
    assert layer.attrs["vote"] == "soft"
    assert layer.attrs["select_params"] == {"threshold": 0.6}
    assert layer.attrs["from_commit"] == voted.runs["heard"].commit
    shares = layer.attrs["shares"]
    for kind in ("train_prior", "prior", "bbse"):
        assert sum(shares[kind].values()) == pytest.approx(1)
        assert tuple(shares[kind]) == layer.classes
    assert layer.kept.sum() > 0
    assert ((layer.confidence > 0.6) == layer.kept).all()
    assert all(("above" in r) == k for r, k in zip(layer.reason, layer.kept, strict=True))
    row = layer.row("unlabeled-05")  # no audio
    assert layer.votes[row, 1] == ABSTAINS
    assert next(iter(voted.log(1))).command == "typed"


def test_a_round_trains_the_next(voted: Store) -> None:
    """A model trains on the layer, human labels included, and the next round stands on this one."""
    kept = int(voted.labels["round1"].kept.sum())
    result = train(voted, "mlp", labels="round1", folds=2, settings=Settings(epochs=2), name="second")
    assert (result.human, result.pseudo) == (48, kept)
    second = pseudo_label(voted, ["second"], over="round1", threshold=0.0, name="round2", vote="majority")
    assert second.layer.parents == ("labels/round1", "runs/second")
    assert second.judged == 30


def test_human_labels_always_win(voted: Store) -> None:
    """Clips with a human label are not judged, in any split."""
    with pytest.raises(ZooError, match="have a human label in 'gold'"):
        pseudo_label(voted, ["fused"], split="train", name="x")
    assert not set(voted.labels["round1"].keys) & set(voted.labels["gold"].keys)


def test_test_clips_are_judged_only_when_asked_for(store: Store) -> None:
    """`test` by name works, with a notice; the default never touches it."""
    train(store, "mlp", folds=2, settings=Settings(epochs=2), name="a")
    few = {k: str(store.labels["gold"][k]) for k in ("train-00", "train-01")}
    store.labels.add(LabelLayer.human("few", ("angry", "happy", "sad"), few))
    assert all(k.startswith("unlabeled") for k in pseudo_label(store, ["a"], threshold=0).layer.keys)
    asked = pseudo_label(store, ["a"], over="few", split="test", threshold=0, name="asked")
    assert len(asked.layer) == 24
    assert "test clips" in asked.notices[0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"runs": ["fusd"]}, UnknownName, "did you mean 'fused'"),
        ({"runs": []}, ZooError, "--run A"),
        ({"runs": ["fused", "fused"]}, ZooError, "named twice"),
        ({"vote": "sofft"}, UnknownName, "did you mean 'soft'"),
        ({"select": "treshold"}, UnknownName, "did you mean 'threshold'"),
        ({"vote_params": {"weight": 1}}, UnknownName, "parameter of the vote soft"),
        ({"vote": "dawid-skene", "vote_params": {"smoothing": 0.0}}, ZooError, "smoothing above 0"),
        ({"vote": "prior", "vote_params": {"prior": {"sad": "x"}}}, ZooError, "the share of sad is 'x'"),
        ({"vote": "prior", "vote_params": {"prior": {"sad": -1}}}, ZooError, "the share of sad is -1"),
        ({"vote": "prior", "vote_params": {"prior": {"sad": 0}}}, ZooError, "no class has a share above 0"),
        ({"vote": "prior", "vote_params": {"prior": {"sda": 1}}}, UnknownName, "did you mean 'sad'"),
        ({"over": "golden"}, UnknownName, "did you mean 'gold'"),
        ({"split": "unlabelled"}, UnknownName, "did you mean 'unlabeled'"),
        ({"name": "round1"}, NameTaken, "never changes"),
        ({"threshold": 1.0}, NothingKept, "no layer was made"),
    ],
)
def test_mistakes_are_told(
    voted: Store, options: dict[str, object], error: type[Exception], match: str
) -> None:
    """Wrong names and empty rounds are errors with a remedy, and leave the store as it was."""
    before = voted.commit
    with pytest.raises(error, match=match):
        pseudo_label(voted, **{"runs": ["fused"], "name": "x", **options})
    voted.refresh()
    assert voted.commit == before


def test_members_must_know_the_layers_classes(voted: Store) -> None:
    """Runs trained on other classes cannot vote on a layer."""
    voted.labels.add(LabelLayer.human("binary", ("neg", "pos"), {"train-00": "neg"}))
    with pytest.raises(BadInput, match="knows the classes angry, happy, sad"):
        pseudo_label(voted, ["fused"], over="binary", name="x")
