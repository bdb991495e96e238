"""Scores, against scikit-learn and by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from mer_zoo.errors import ZooError
from mer_zoo.metrics import Scores, expected_calibration_error, mean_std, score, weighted_f1

CLASSES = ("a", "b", "c")


def random_case(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), n)
    return rng.integers(0, 3, n), probs


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_sklearn(seed: int) -> None:
    """WAF, accuracy, UAR, macro-F1 and confusion are the usual ones."""
    label, probs = random_case(seed)
    guess, found = probs.argmax(1), score(label, probs, CLASSES)
    assert found.waf == pytest.approx(f1_score(label, guess, average="weighted"))
    assert found.accuracy == pytest.approx(accuracy_score(label, guess))
    assert found.uar == pytest.approx(balanced_accuracy_score(label, guess))
    assert found.macro_f1 == pytest.approx(f1_score(label, guess, average="macro"))
    assert found.confusion == confusion_matrix(label, guess).tolist()
    assert float(weighted_f1(np.array(found.confusion))) == pytest.approx(found.waf)


def test_a_class_without_clips_counts_in_no_mean() -> None:
    """UAR and macro-F1 average over the classes that occur; the absent one is listed with support 0."""
    probs = np.eye(3)[[0, 0, 1]]
    found = score([0, 0, 1], probs, CLASSES)
    assert (found.uar, found.macro_f1, found.waf) == (1.0, 1.0, 1.0)
    assert found.per_class["c"].support == 0
    assert found.per_class["c"].f1 == 0


def test_one_class_only() -> None:
    """A split of one class can be scored."""
    found = score([1, 1], np.array([[0.2, 0.8, 0], [0.7, 0.3, 0]]), CLASSES)
    assert found.accuracy == found.uar == 0.5
    assert found.waf == pytest.approx(2 / 3)


def test_nothing_to_score() -> None:
    """No clips is an error, not NaN."""
    with pytest.raises(ZooError, match="no labelled clips"):
        score([], np.zeros((0, 3)), CLASSES)


def test_calibration_error_by_hand() -> None:
    """0.8 sure and right half of the time is 0.3 off; calibrated predictions are 0 off."""
    probs = np.array([[0.8, 0.2]] * 4)
    assert expected_calibration_error(np.array([0, 0, 1, 1]), probs) == pytest.approx(0.3)
    assert expected_calibration_error(np.array([0, 1]), np.array([[1.0, 0], [0, 1.0]])) == 0


def test_scores_survive_json() -> None:
    """Scores come back from JSON as they were."""
    found = score(*random_case(0), CLASSES)
    assert Scores.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_mean_and_spread() -> None:
    """Mean and sample standard deviation over folds; one fold has no spread."""
    parts = [score(*random_case(seed), CLASSES) for seed in range(4)]
    waf = [s.waf for s in parts]
    assert mean_std(parts)["waf"] == pytest.approx({"mean": np.mean(waf), "std": np.std(waf, ddof=1)})
    assert mean_std(parts[:1])["waf"]["std"] == 0
