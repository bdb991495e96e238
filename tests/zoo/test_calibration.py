"""Calibration on predictions that are wrong in a known way, and on a run."""

import numpy as np
import pytest

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import UnknownName
from mer_zoo.calibration import METHODS, cross_fit, fit_calibrator, log_loss
from mer_zoo.errors import ZooError
from mer_zoo.members import calibrate, calibrate_on
from mer_zoo.metrics import expected_calibration_error
from mer_zoo.predict import predict
from mer_zoo.proportions import wilson
from mer_zoo.report.rounds import write_calibration
from mer_zoo.runs import find_run
from mer_zoo.settings import Settings
from mer_zoo.train import train


def trained_only(store: Store) -> str:
    """Add a layer with the labels of the clips that run `a` was validated on; return its name."""
    own = {key: str(store.labels["gold"][key]) for key in find_run(store, "a").config.folds}
    store.labels.add(LabelLayer.human("own", ("angry", "happy", "sad"), own))
    return "own"


def softmax(z: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def overconfident(
    n: int = 4000, scale: float = 3.0, bias: tuple[float, ...] = (0, 0, 0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn from true probabilities, and those probabilities after z -> scale · z + bias."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.2, (n, 3))
    label = np.array([rng.choice(3, p=p) for p in softmax(z)])
    return softmax(z * scale + np.array(bias)), label


@pytest.mark.parametrize("method", ["temperature", "bcts", "vector"])
def test_a_known_temperature_is_found(method: str) -> None:
    """Logits three times too large get the scale 1/3, no bias, and probabilities that mean what they say."""
    probs, label = overconfident()
    found = fit_calibrator(probs, label, method)
    assert found.scale == pytest.approx((1 / 3,) * 3, rel=0.12)
    assert np.array(found.bias) - np.mean(found.bias) == pytest.approx(np.zeros(3), abs=0.15)
    fresh, truth = overconfident(seed=1)
    before, after = (expected_calibration_error(truth, p) for p in (fresh, found(fresh).astype(np.float64)))
    assert before > 0.1
    assert after < 0.03


def test_a_known_bias_is_found() -> None:
    """`bcts` undoes a bias that `temperature` cannot, and its mean probability is the labels' share."""
    probs, label = overconfident(bias=(1.5, 0, -1.5))
    bcts, plain = (fit_calibrator(probs, label, method) for method in ("bcts", "temperature"))
    assert log_loss(bcts(probs), label) < log_loss(plain(probs), label) - 0.02
    shares = np.bincount(label) / len(label)
    np.testing.assert_allclose(bcts(probs).mean(0), shares, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_calibration_keeps_a_distribution(method: str) -> None:
    """Rows sum to one, even with zeros, a missing class and nothing but right answers."""
    probs = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]
    found = fit_calibrator(probs, [0, 1, 0, 1, 0, 1], method)(probs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert (found.argmax(1) == [0, 1, 0, 1, 0, 1]).all()


def test_temperature_changes_no_decision() -> None:
    """One scale for all classes keeps the order of classes."""
    probs, label = overconfident(200)
    found = fit_calibrator(probs, label, "temperature")(probs)
    np.testing.assert_array_equal(found.argmax(1), probs.argmax(1))


def test_no_clip_helps_to_calibrate_itself() -> None:
    """Changing a fold's labels leaves that fold's calibrated probabilities as they were."""
    probs, label = overconfident(300)
    fold = np.arange(300) % 3
    turned = np.where(fold == 1, (label + 1) % 3, label)
    first, second = (cross_fit(probs, y, fold, "vector") for y in (label, turned))
    np.testing.assert_array_equal(first[fold == 1], second[fold == 1])
    assert not np.array_equal(first[fold == 0], second[fold == 0])


def test_mistakes_are_told() -> None:
    """An unknown method, and nothing to fit on."""
    with pytest.raises(UnknownName, match="did you mean 'temperature'"):
        fit_calibrator(np.ones((1, 2)) / 2, [0], "temprature")
    with pytest.raises(ZooError, match="--calibrate none"):
        fit_calibrator(np.zeros((0, 2)), [], "bcts")


def test_wilson_against_published_values() -> None:
    """0 of 10 and 81 of 263 (Newcombe 1998, table I), and nothing of nothing."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_a_run_is_calibrated_across_folds(store: Store, tmp_path: object) -> None:
    """The report counts clips surer than 0.9 and those right among them, and draws reliability."""
    train(store, "mlp", name="a", folds=3, params={"hidden": 16}, settings=Settings(epochs=15, lr=0.02))
    found = calibrate(store, "a", "temperature")
    sure = found.after.max(1) > 0.9
    assert found.n == 48
    assert found.sure[1] == sure.sum()
    assert found.right[1] == (sure & (found.after.argmax(1) == found.label)).sum()
    assert found.precision[1] == wilson(found.right[1], found.sure[1])
    assert found.to_json()["method"] == "temperature"
    other = calibrate_on(store, "a", "test", "temperature")
    said = predict(store, "a", "test").probs
    assert other.calibrator == found.calibrator
    np.testing.assert_array_equal(other.after, found.calibrator(said))
    assert (other.on, other.n) == ("test", 24)
    assert store.runs[other.record].json("calibration.json")["ece"] == list(other.ece)
    with pytest.raises(ZooError, match="validated on all labelled clips of 'train'"):
        calibrate_on(store, "a", "train", labels=trained_only(store))
    assert write_calibration(found, ("a", "b", "c"), tmp_path / "r.png").stat().st_size > 5000
