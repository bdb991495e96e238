"""Naming and choosing several encoders per modality."""

import pytest

from mer_featurestore import Store
from mer_zoo.errors import ZooError
from mer_zoo.predict import predict
from mer_zoo.registry import find_model
from mer_zoo.settings import Settings
from mer_zoo.spaces import choose
from mer_zoo.topn import best, modality_of, number, rank
from mer_zoo.train import train


@pytest.mark.parametrize(
    ("name", "modality"), [("audio", "audio"), ("text-2", "text"), ("video-12", "video")]
)
def test_modality_of(name: str, modality: str) -> None:
    """An input is of the modality before its number."""
    assert modality_of(name) == modality


@pytest.mark.parametrize("name", ["audio-1", "audio-", "audio-x", "sound", "", "audio-02"])
def test_names_that_mean_nothing(name: str) -> None:
    """Anything else is refused, with the form."""
    with pytest.raises(ZooError, match="audio-2"):
        modality_of(name)


def test_number() -> None:
    """The first encoder of a modality has its name, further ones are numbered from two."""
    names = number(["audio", "text", "audio", "audio"])
    assert names == ["audio", "text", "audio-2", "audio-3"]
    assert [modality_of(name) for name in names] == ["audio", "text", "audio", "audio"]


def test_rank() -> None:
    """Inputs are ordered by modality, then by number, not by letters."""
    names = ["text", "audio-10", "video", "audio-2", "audio"]
    assert sorted(names, key=rank) == ["audio", "audio-2", "audio-10", "video", "text"]


def test_best_by_validation_score() -> None:
    """The best n of each modality are taken, best first, equal scores by name."""
    modalities = {"a": "audio", "b": "audio", "c": "audio", "v": "video", "w": "video"}
    scores = {"a": 0.5, "b": 0.7, "c": 0.6, "w": 0.4, "v": 0.4}
    assert best(scores, modalities, 2) == {"audio": "b", "audio-2": "c", "video": "v", "video-2": "w"}
    assert best(scores, modalities, 1) == {"audio": "b", "video": "v"}


def test_best_refuses() -> None:
    """None of each, and spaces of no known modality, are refused."""
    with pytest.raises(ZooError, match="at least 1"):
        best({"a": 1.0}, {"a": "audio"}, 0)
    with pytest.raises(ZooError, match="'b'"):
        best({"b": 1.0}, {"a": "audio"}, 1)


def test_spaces_become_inputs(toy_store: Store) -> None:
    """Two spaces of one modality become numbered inputs of a model that takes them, in the order given."""
    several, one = find_model("attention-topn"), find_model("attention")
    names = ["words-UTT", "sound-FRA", "face-UTT", "sound-UTT"]
    chosen = choose(toy_store, several, names).chosen
    assert {name: str(c) for name, c in chosen.items()} == {
        "audio": "sound-FRA",
        "audio-2": "sound-UTT",
        "video": "face-UTT",
        "text": "words-UTT",
    }
    by_name = {"audio-2": "sound-FRA", "audio": "sound-UTT"}
    assert list(choose(toy_store, several, by_name).chosen) == ["audio", "audio-2"]
    for wrong in (names, by_name):
        with pytest.raises(ZooError, match="attention-topn"):
            choose(toy_store, one, wrong)
    with pytest.raises(ZooError, match="it is audio"):
        choose(toy_store, several, {"video-2": "sound-UTT"})


def test_train_on_two_encoders(store: Store) -> None:
    """Training and prediction run over several encoders of one modality."""
    result = train(
        store,
        find_model("attention-topn"),
        features=["sound-UTT", "sound-FRA", "face-UTT"],
        labels="gold",
        folds=2,
        params={"hidden": 8},
        settings=Settings(epochs=2),
    )
    predictions = predict(store, result.name, split="test")
    assert predictions.probs.shape[1] == 3
