"""Class shares under a controlled label shift, with members drawn from a known generative model."""

import numpy as np
import pytest

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import UnknownName
from mer_zoo.ballots import Ballot, HeldOut
from mer_zoo.bootstrap import scores_of
from mer_zoo.errors import ZooError
from mer_zoo.label_shift import adjust, bbse, class_shares, em_prior, total_variation
from mer_zoo.predict import predict
from mer_zoo.priors import corrected, priors
from mer_zoo.report.rounds import write_priors
from mer_zoo.settings import Settings
from mer_zoo.train import train
from mer_zoo.votes import VOTES

C = 4
TRAIN = np.array([0.4, 0.3, 0.2, 0.1])
SHIFTED = np.array([0.1, 0.2, 0.3, 0.4])
BALANCED = np.full(C, 1 / C)
RARE = (2, 3)  # rarer in training than among the unlabelled clips
SEEDS = range(12)


def draw(
    rng: np.random.Generator, share: np.ndarray, n: int, members: int, train: np.ndarray = TRAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels `[n]`, and members' exact posteriors `[M, n, C]` under `train`, from normal evidence."""
    label = rng.choice(C, size=n, p=share)
    evidence = np.eye(C)[label] * 1.5 + rng.normal(0, 1, (members, n, C))
    z = 1.5 * evidence + np.log(train)
    e = np.exp(z - z.max(-1, keepdims=True))
    return label, (e / e.sum(-1, keepdims=True)).astype(np.float32)


def make_round(seed: int, share: np.ndarray, train: np.ndarray = TRAIN) -> tuple[Ballot, np.ndarray]:
    """Return a ballot of three members on 800 clips, 600 held-out ones beside it, and the true labels."""
    rng = np.random.default_rng(seed)
    held_label, held = draw(rng, train, 600, 3, train)
    label, probs = draw(rng, share, 800, 3, train)
    names, classes = ("runs/a", "runs/b", "runs/c"), tuple("wxyz")

    def ballot(p: np.ndarray, held_out: HeldOut | None = None) -> Ballot:
        keys = tuple(str(i) for i in range(p.shape[1]))
        return Ballot(names, classes, keys, p, np.ones(p.shape[:2], np.bool_), held_out)

    return ballot(probs, HeldOut(ballot(held), held_label, np.arange(600) % 2 == 0)), label


def confusion(label: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Return counts `[C, C]`, rows = label."""
    return np.bincount(label * C + guess, minlength=C * C).reshape(C, C)


def rare_waf(label: np.ndarray, guess: np.ndarray) -> float:
    """Return F1 averaged over the rare classes with their shares."""
    counts = confusion(label, guess)
    f1 = 2 * np.diag(counts) / (counts.sum(0) + counts.sum(1))
    return float(np.average(f1[list(RARE)], weights=counts.sum(1)[list(RARE)]))


@pytest.mark.parametrize("share", [SHIFTED, np.array([0.05, 0.05, 0.1, 0.8]), TRAIN])
def test_em_finds_a_known_shift(share: np.ndarray) -> None:
    """With calibrated probabilities EM is within 0.05 total variation of the truth for every seed."""
    for seed in SEEDS:
        label, probs = draw(np.random.default_rng(seed), share, 1500, 1)
        found = em_prior(probs[0], TRAIN)
        assert total_variation(found, class_shares(label, C)) < 0.05
        assert found.sum() == pytest.approx(1)


def test_bbse_finds_a_known_shift() -> None:
    """The cross-check, which only sees decisions, agrees within 0.08 on the mean of the seeds."""
    far = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        held_label, held = draw(rng, TRAIN, 1500, 1)
        label, probs = draw(rng, SHIFTED, 1500, 1)
        share = bbse(held_label, held[0].argmax(1), probs[0].argmax(1), C)
        far.append(total_variation(share, class_shares(label, C)))
    assert np.mean(far) < 0.08


def test_bbse_solves_its_equation() -> None:
    """On counts that follow the model exactly, the shares are exact."""
    held_label = np.repeat([0, 1], [60, 40])
    held_guess = np.concatenate([np.repeat([0, 1], [45, 15]), np.repeat([0, 1], [10, 30])])
    guess = np.repeat([0, 1], [400, 600])
    np.testing.assert_allclose(bbse(held_label, held_guess, guess, 2), (0.3, 0.7), atol=1e-9)


def test_weights_count_as_repeated_rows() -> None:
    """EM with a row of weight 3 is EM with that row three times."""
    _, probs = draw(np.random.default_rng(0), SHIFTED, 40, 1)
    often = np.arange(40) % 4
    repeated = em_prior(np.repeat(probs[0], often, axis=0), TRAIN)
    np.testing.assert_allclose(em_prior(probs[0], TRAIN, weight=often), repeated, atol=1e-9)


def test_adjusting_by_hand() -> None:
    """Times prior / train, normalised; the same shares change nothing, an unseen class gets nothing."""
    np.testing.assert_allclose(adjust([[0.5, 0.5]], [0.75, 0.25], [0.5, 0.5]), [[0.25, 0.75]])
    np.testing.assert_allclose(adjust([[0.2, 0.8]], TRAIN[:2], TRAIN[:2]), [[0.2, 0.8]])
    np.testing.assert_allclose(adjust([[0.5, 0.5]], [1.0, 0.0], [0.5, 0.5]), [[1.0, 0.0]])


def test_the_prior_vote_helps_rare_classes_and_harms_nobody() -> None:
    """Under shift it beats the majority on rare classes in the mean of 12 seeds; without, it costs little."""
    gain, harm, far = [], [], []
    for seed in SEEDS:
        ballot, label = make_round(seed, SHIFTED)
        aware, majority = (VOTES[name].function(ballot) for name in ("prior", "majority"))
        gain.append(rare_waf(label, aware.label) - rare_waf(label, majority.label))
        estimate = np.array([aware.facts["prior"][c] for c in "wxyz"])
        far.append(total_variation(estimate, class_shares(label, C)))
        ballot, label = make_round(seed + 100, TRAIN)
        waf = [
            float(scores_of(confusion(label, VOTES[name].function(ballot).label))["waf"])
            for name in ("prior", "majority")
        ]
        harm.append(waf[0] - waf[1])
    assert np.mean(gain) > 0.02
    assert max(far) < 0.05
    assert np.mean(harm) > -0.01


def over_seeds(differences: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean over 12 seeds (Student, 11 degrees of freedom)."""
    assert len(differences) == 12
    mean, reach = np.mean(differences), 2.201 * np.std(differences, ddof=1) / np.sqrt(12)
    return float(mean - reach), float(mean + reach)


@pytest.mark.parametrize("train", [BALANCED, TRAIN], ids=["balanced training", "skewed training"])
def test_on_balanced_clips_the_prior_vote_does_no_harm(train: np.ndarray) -> None:
    """With equal class shares its WAF over 12 seeds is not below the majority's by more than the interval.

    Where training was balanced too there is nothing to correct: beside the plain mean, the same without the
    correction, the difference is within its interval of nothing, and at most half a point.
    """
    to_majority, to_mean = [], []
    for seed in SEEDS:
        ballot, label = make_round(seed + 200, BALANCED, train)
        waf = {
            name: float(scores_of(confusion(label, VOTES[name].function(ballot).label))["waf"])
            for name in ("prior", "majority", "soft")
        }
        to_majority.append(waf["prior"] - waf["majority"])
        to_mean.append(waf["prior"] - waf["soft"])
    assert over_seeds(to_majority)[1] >= 0
    low, high = over_seeds(to_mean)
    assert high >= 0
    if train is BALANCED:
        assert low <= 0
        assert -0.005 < np.mean(to_mean) < 0.005


def test_known_shares_are_taken_as_given() -> None:
    """`prior={…}` is used as it is, scaled to one; nonsense is refused."""
    ballot, _ = make_round(0, SHIFTED)
    verdict = VOTES["prior"].function(ballot, prior={"w": 1, "z": 3}, calibrate="none")
    assert verdict.facts["prior"] == {"w": 0.25, "x": 0.0, "y": 0.0, "z": 0.75}
    assert set(verdict.label.tolist()) <= {0, 3}
    with pytest.raises(UnknownName, match="no class named 'sad'"):
        VOTES["prior"].function(ballot, prior={"sad": 1.0})
    with pytest.raises(ZooError, match="above 0"):
        VOTES["prior"].function(ballot, prior={"w": 0.0})


def test_dawid_skene_learns_whom_to_trust() -> None:
    """One good voter among two that mostly say the same wrong thing is found out, and beats the majority."""
    rng = np.random.default_rng(0)
    label, known = rng.integers(0, C, 600), rng.integers(0, C, 200)

    def votes(truth: np.ndarray) -> np.ndarray:
        right = [rng.random(len(truth)) < p for p in (0.95, 0.45, 0.45)]
        return np.stack([np.where(r, truth, rng.integers(0, C, len(truth))) for r in right])

    def ballot(said: np.ndarray, held: HeldOut | None = None) -> Ballot:
        keys = tuple(map(str, range(said.shape[1])))
        probs = (np.eye(C)[said] * 0.7 + 0.1).astype(np.float32)
        return Ballot(("m", "n", "o"), tuple("wxyz"), keys, probs, np.ones(said.shape, np.bool_), held)

    given = ballot(votes(label), HeldOut(ballot(votes(known)), known, known % 2 == 0))
    skilled, majority = (VOTES[name].function(given) for name in ("dawid-skene", "majority"))
    assert (skilled.label == label).mean() > (majority.label == label).mean() + 0.05
    errors = np.array([skilled.facts["confusion"][m] for m in "mno"])
    assert np.diagonal(errors, axis1=1, axis2=2).mean(1) == pytest.approx([0.96, 0.59, 0.59], abs=0.08)
    alone = VOTES["dawid-skene"].function(given, anchored=False)
    assert (alone.label == label).mean() >= (majority.label == label).mean()


def test_an_expert_decides_what_it_is_expert_in() -> None:
    """With weight 2 for class z one member outvotes one other; for other classes it does not."""
    first, second = [[0, 0.2, 0, 0.8], [0.6, 0.4, 0, 0]], [[0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0]]
    probs = np.array([first, second], np.float32)
    ballot = Ballot(("runs/a", "runs/b"), tuple("wxyz"), ("k", "l"), probs, np.ones((2, 2), np.bool_))
    assert VOTES["majority"].function(ballot).label.tolist() == [0, 1]
    weighted = VOTES["weighted"].function(ballot, weights={"a": {"z": 2.0}})
    assert weighted.label.tolist() == [3, 1]
    silent = VOTES["weighted"].function(ballot, weights={"a": {"z": 0.0, "w": 0.0}, "b": {"x": 0.0}})
    assert silent.label.tolist() == [0, -1]
    assert silent.confidence[1] == 0
    for weights, match in (({"c": {}}, "no member named 'c'"), ({"a": {"q": 1}}, "no class named 'q'")):
        with pytest.raises(UnknownName, match=match):
            VOTES["weighted"].function(ballot, weights=weights)
    with pytest.raises(ZooError, match="use 0 or more"):
        VOTES["weighted"].function(ballot, weights={"a": {"z": -1}})


def test_shares_are_estimated_as_calibration_was_learned() -> None:
    """Means over folds are too modest for what is learned on single folds: these speak, where they are known.

    Each of five folds sees evidence of its own. Their mean, taken for one fold's word, misleads EM; what the
    folds say one by one does not.
    """
    far = {"single": [], "mean": []}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        held_label, held = draw(rng, TRAIN, 1500, 1)
        label, folds = draw(rng, SHIFTED, 1500, 5)
        keys, there = tuple(map(str, range(1500))), np.ones((1, 1500), np.bool_)
        held_out = HeldOut(Ballot(("m",), tuple("wxyz"), keys, held, there), held_label, held_label >= 0)
        mean = folds.mean(0, keepdims=True)
        for name, single in (("single", folds), ("mean", None)):
            ballot = Ballot(("m",), tuple("wxyz"), keys, mean, there, held_out, single)
            facts = VOTES["prior"].function(ballot).facts
            estimate = np.array([facts["prior"][c] for c in "wxyz"])
            far[name].append(total_variation(estimate, class_shares(label, C)))
            assert facts["apart"] == pytest.approx(
                total_variation(estimate, [facts["bbse"][c] for c in "wxyz"])
            )
    assert max(far["single"]) < 0.05
    assert np.mean(far["mean"]) > 2 * np.mean(far["single"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: object) -> Store:
    """Return a store with a run `a`, and a layer `truth` with labels of unlabelled clips."""
    store = toy(tmp_path_factory.mktemp("priors") / "store")
    train(store, "mlp", name="a", folds=3, params={"hidden": 16}, settings=Settings(epochs=15, lr=0.02))
    known = {f"unlabeled-{i:02d}": "sad" for i in range(20)} | {"unlabeled-20": "happy"}
    store.labels.add(LabelLayer.human("truth", ("angry", "happy", "sad"), known))
    return store


def test_priors_of_a_split(trained: Store, tmp_path: object) -> None:
    """Shares sum to one, lie in their intervals, are compared with the truth, and can be drawn."""
    before = trained.commit
    found = priors(trained, "a", truth="truth", resamples=20)
    assert trained.commit == before
    for estimate in (found.em, found.bbse):
        assert estimate.share.sum() == pytest.approx(1)
        assert (estimate.low <= estimate.high).all()
    assert (found.n, found.held, found.known) == (30, 48, 21)
    assert found.truth.tolist() == pytest.approx([0, 1 / 21, 20 / 21])
    assert found.distances()["em"] == total_variation(found.em.share, found.truth)
    assert found.to_json()["classes"]["sad"]["truth"] == pytest.approx(20 / 21)
    assert write_priors(found, tmp_path / "p.png").stat().st_size > 5000
    again = priors(trained, "a", resamples=20)
    np.testing.assert_array_equal(again.em.low, found.em.low)
    assert again.distances() == {}


def test_what_folds_say_is_kept_when_asked(trained: Store) -> None:
    """One table for each fold, whose mean is the prediction; an out-of-fold prediction is each fold's."""
    said = predict(trained, "a", by_fold=True)
    assert said.single.shape == (3, *said.probs.shape)
    np.testing.assert_allclose(said.single.mean(0), said.probs, atol=1e-6)
    own = said.origin == 0
    assert (said.single[:, own] == said.probs[own]).all()
    assert not (said.single[0, ~own] == said.probs[~own]).all()
    with pytest.raises(ValueError, match="by_fold"):
        _ = predict(trained, "a").single


def test_predictions_are_corrected(trained: Store) -> None:
    """New clips are calibrated and moved to the estimated shares; out-of-fold predictions stay."""
    plain = predict(trained, "a")
    found = corrected(trained, plain, calibrate="bcts", prior_split="unlabeled")
    own = plain.origin == 0
    np.testing.assert_array_equal(found.probs[own], plain.probs[own])
    assert not np.array_equal(found.probs[~own], plain.probs[~own])
    np.testing.assert_allclose(found.probs.sum(1), 1, atol=1e-5)
    each = corrected(trained, predict(trained, "a", by_fold=True), calibrate="bcts", prior_split="unlabeled")
    np.testing.assert_array_equal(each.probs[own], plain.probs[own])
    np.testing.assert_allclose(each.probs.sum(1), 1, atol=1e-5)
    same = corrected(trained, plain)
    np.testing.assert_array_equal(same.probs, plain.probs)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"split": "train"}, ZooError, "validated on all clips of 'train'"),
        ({"truth": "gold"}, ZooError, "a human label for none of the 30 clips"),
        ({"resamples": 0}, ZooError, "use 1 or more"),
        ({"calibrate": "btcs"}, UnknownName, "did you mean 'bcts'"),
    ],
)
def test_mistakes_are_told(trained: Store, options: dict, error: type[Exception], match: str) -> None:
    """Clips that cannot be estimated on, unknown names and no resamples are errors with a remedy."""
    with pytest.raises(error, match=match):
        priors(trained, "a", **options)
