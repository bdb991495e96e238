"""Folds for cross-validation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from mer_featurestore import Clip
from mer_zoo.errors import ZooError
from mer_zoo.folds import make_folds

CLASSES = ("a", "b")


def clips(speakers: list[str], groups: list[str] | None = None) -> list[Clip]:
    """Return a clip per speaker."""
    groups = groups or [""] * len(speakers)
    return [
        Clip(key=f"k{i}", speaker=s, group=g) for i, (s, g) in enumerate(zip(speakers, groups, strict=True))
    ]


@settings(max_examples=25, deadline=None)
@given(
    speakers=st.lists(st.sampled_from("stuvwxyz"), min_size=6, max_size=40),
    folds=st.integers(2, 6),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_no_speaker_is_divided(speakers: list[str], folds: int, seed: int, data: st.DataObject) -> None:
    """Whatever the sizes, a speaker's clips share a fold, every fold has clips, and a seed repeats itself."""
    if len(set(speakers)) < 2:
        return
    label = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(speakers), max_size=len(speakers))))
    made = make_folds(clips(speakers), label, CLASSES, folds=folds, seed=seed)
    for speaker in set(speakers):
        assert len({f for f, s in zip(made.fold, speakers, strict=True) if s == speaker}) == 1
    assert set(made.fold) == set(range(made.count))
    again = make_folds(clips(speakers), label, CLASSES, folds=folds, seed=seed)
    assert again.fold.tolist() == made.fold.tolist()


def test_classes_are_spread() -> None:
    """Without groups every fold gets its share of each class."""
    label = np.arange(50) % 2
    made = make_folds(clips([""] * 50), label, CLASSES, folds=5)
    assert made.grouped_by == "none"
    for k in range(5):
        assert np.bincount(label[made.fold == k]).tolist() == [5, 5]


def test_seeds_differ() -> None:
    """Another seed makes other folds."""
    label = np.arange(50) % 2
    a, b = (make_folds(clips([""] * 50), label, CLASSES, seed=s).fold for s in (0, 1))
    assert a.tolist() != b.tolist()


def test_a_dialogue_and_its_speakers_stay_together() -> None:
    """Clips linked by speaker or group, even through others, share a fold; `speaker` alone divides them."""
    made = clips(["s", "s", "t", "t", "u", "v"], ["d1", "d2", "d2", "d3", "d4", "d5"])
    label = np.array([0, 1, 0, 1, 0, 1])
    folds = make_folds(made, label, CLASSES, folds=3)
    assert folds.grouped_by == "speaker+group"
    assert len(set(folds.fold[:4])) == 1
    assert make_folds(made, label, CLASSES, folds=4, group_by="speaker").count == 4


def test_fewer_speakers_than_folds() -> None:
    """With three speakers there are three folds, and the result says so."""
    made = make_folds(clips(list("aabbcc")), np.array([0, 1] * 3), CLASSES, folds=5)
    assert made.count == 3
    assert "3 folds instead of 5" in made.notices[0]


def test_one_speaker_is_an_error_with_a_remedy() -> None:
    """A single speaker cannot be held out; --group-by none is offered, and works."""
    one = clips(["a"] * 6)
    label = np.array([0, 1] * 3)
    with pytest.raises(ZooError, match="--group-by none"):
        make_folds(one, label, CLASSES, folds=2)
    assert make_folds(one, label, CLASSES, folds=2, group_by="none").count == 2


def test_speakers_of_two_corpora_are_different_people() -> None:
    """Speaker `03` of one corpus and `03` of another may be in different folds."""
    made = [Clip(key=f"k{i}", speaker="03", corpus=c) for i, c in enumerate("aabb")]
    assert make_folds(made, np.array([0, 1, 0, 1]), CLASSES, folds=2).count == 2


def test_rare_and_absent_classes_are_told() -> None:
    """A class with fewer clips than folds, or none, is no error and is told."""
    made = make_folds(clips([""] * 10), np.array([0] * 8 + [1] * 2), ("a", "b", "c"), folds=5)
    assert any("'b' has only 2" in n for n in made.notices)
    assert any("no labelled clip of class 'c'" in n for n in made.notices)


def test_every_class_rarer_than_the_folds() -> None:
    """Even then folds are made."""
    made = make_folds(clips([""] * 4), np.array([0, 0, 1, 1]), CLASSES, folds=4)
    assert sorted(made.fold.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "options", "match"),
    [
        (6, {"folds": 1}, "--folds 2"),
        (1, {}, "label more"),
        (6, {"group_by": "speaker"}, "no labelled clip has a speaker"),
        (6, {"group_by": "dialog"}, "use one of"),
    ],
)
def test_what_cannot_be_divided(count: int, options: dict[str, object], match: str) -> None:
    """Impossible wishes are refused with a remedy."""
    with pytest.raises(ZooError, match=match):
        make_folds(clips([""] * count), np.zeros(count, int), CLASSES, **options)


@pytest.mark.parametrize("seed", range(12))
def test_folds_are_those_of_scikit_learn(seed: int) -> None:
    """Groups of any size go to the folds of StratifiedGroupKFold."""
    random = np.random.default_rng(seed)
    label, group = random.integers(0, 4, 90), random.integers(0, 20 + 5 * seed, 90)
    spoken = clips([f"s{g:03d}" for g in group])
    expected = np.zeros(90, np.int64)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    # Ours numbers groups by their first clips.
    first = {g: i for i, g in reversed(list(enumerate(group)))}
    for k, (_, held) in enumerate(splitter.split(label, label, [first[g] for g in group])):
        expected[held] = k
    found = make_folds(spoken, label, tuple("abcd"), folds=5, seed=seed)
    np.testing.assert_array_equal(found.fold, expected)
