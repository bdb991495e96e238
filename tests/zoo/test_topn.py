"""Naming and choosing several encoders per modality."""

import pytest

from mer_zoo.errors import ZooError
from mer_zoo.topn import best, modality_of, number


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
    pairs = [("audio", "hubert"), ("text", "bert"), ("audio", "wavlm"), ("audio", "whisper")]
    inputs = number(pairs)
    assert inputs == {"audio": "hubert", "text": "bert", "audio-2": "wavlm", "audio-3": "whisper"}
    assert [modality_of(name) for name in inputs] == ["audio", "text", "audio", "audio"]


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
