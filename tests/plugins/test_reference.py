"""The extractors on a real corpus: published reference numbers, quarantine, resuming."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer_featurestore import Store
from mer_plugins.contract import Options
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.plan import quarantined

# The first of these tests waits for the extraction of the whole corpus.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FACELESS = {"cp_0110", "cp_0312"}


@pytest.fixture(scope="module")
def store(composite_folder: Path) -> Store:
    """Return the composite store, for reading."""
    return Store.open(composite_folder)


def probe(
    store: Store, space: str, labels: dict[str, str], strength: float
) -> dict[str, tuple[float, float, int]]:
    """Fit the reference classifier on `train`; return WAF, UAR and clips of `test` and `unlabeled`."""
    features = store.features[space]
    left_out = FACELESS if space.startswith("face") else set()

    def data(split: str) -> tuple[np.ndarray, list[str]]:
        keys = [clip.key for clip in store.clips.select(split=split)]
        keys = [k for k in keys if k in features and k not in left_out and not k.startswith("broken")]
        return features.matrix(keys), [labels[key] for key in keys]

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
    classifier.fit(*data("train"))
    scores = {}
    for split in ("test", "unlabeled"):
        x, truth = data(split)
        guess = classifier.predict(x)
        waf = f1_score(truth, guess, average="weighted")
        scores[split] = (waf, balanced_accuracy_score(truth, guess), len(truth))
    return scores


@pytest.mark.parametrize(
    ("space", "strength", "test", "unlabeled"),
    [
        ("whisper-UTT", 0.01, (0.820, 0.809, 98), (0.836, 0.843, 182)),
        ("whisper-UTT", 0.1, (0.821, 0.813, 98), (0.861, 0.863, 182)),
        ("face-expression-UTT", 0.01, (0.516, 0.482, 97), (0.568, 0.509, 182)),
        ("face-expression-UTT", 0.1, (0.550, 0.511, 97), (0.568, 0.514, 182)),
        ("hf-text-UTT", 0.01, (0.279, 0.255, 97), (0.295, 0.271, 181)),
    ],
)
def test_reference_scores(
    store: Store,
    composite_labels: dict[str, str],
    space: str,
    strength: float,
    test: tuple[float, float, int],
    unlabeled: tuple[float, float, int],
) -> None:
    """WAF, UAR and the number of clips of every modality are those measured with the reference recipes."""
    scores = probe(store, space, composite_labels, strength)
    assert scores["test"] == pytest.approx(test, abs=0.03)
    assert scores["unlabeled"] == pytest.approx(unlabeled, abs=0.03)


def test_broken_clips_are_in_quarantine_and_nothing_else(store: Store) -> None:
    """Of 457 clips, the broken files and empty transcripts have a reason, all others have features."""
    found = quarantined(store)
    assert set(found["whisper-UTT"]) == {"broken_truncated", "broken_empty", "broken_noaudio"}
    assert set(found["face-expression-UTT"]) == {"broken_truncated", "broken_empty"}
    assert set(found["hf-text-UTT"]) == {"cp_0056", "cp_0397"}
    assert "cut off before its index" in found["whisper-UTT"]["broken_truncated"]
    assert "is empty (0 bytes)" in found["whisper-UTT"]["broken_empty"]
    assert "no audio stream" in found["whisper-UTT"]["broken_noaudio"]
    assert found["hf-text-UTT"]["cp_0056"] == "the transcript is empty"
    for name, failed in found.items():
        assert len(store.features[name]) == 457 - len(failed)


def test_utterances_are_the_means_of_frames(store: Store) -> None:
    """The utterance space is the mean of the frame space, to half precision; frames are 20 ms of 2.04 s."""
    utt, frames = store.features["whisper-UTT"], store.features["whisper-FRA"]
    keys = ["cp_0001", "cp_0002"]
    assert frames.lengths(keys).tolist() == [103, 103]
    for key in keys:
        assert np.allclose(utt[key][0], frames[key].astype(np.float64).mean(axis=0), atol=2e-3)


@pytest.mark.parametrize(
    ("plugin", "model", "layers", "extra"),
    [
        ("whisper", "whisper-tiny-en", "2", {}),
        ("hf-text", "all-minilm-l6-v2", "last", {}),
        ("face-expression", "face-expression", None, {"face": "center"}),
    ],
)
def test_extracted_again_alone_is_the_same_to_the_last_bit(
    composite_store: Store, shared: Path, plugin: str, model: str, layers: str | None, extra: dict[str, str]
) -> None:
    """A few clips by themselves, in another order, have the very bits they have in the whole corpus."""
    keys = ("cp_0100", "cp_0007", "cp_0450")
    options = Options(model=str(shared / "models" / model), layers=layers, device="cpu", extra=extra)
    extract(
        composite_store, plan(composite_store, Request(plugin=plugin, options=options, keys=keys, name="x"))
    )
    again, before = (composite_store.features[f"{name}-UTT"] for name in ("x", plugin))
    assert len(again) == 3
    assert all(np.array_equal(again[key], before[key]) for key in keys)
    assert again.fingerprint == before.fingerprint
