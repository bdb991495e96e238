"""From a store to a run, its predictions and its evaluation."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import BadInput, FingerprintMismatch, NameTaken, StoreError, UnknownName
from mer_zoo import devices
from mer_zoo.compare import compare
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.planning import make_plan
from mer_zoo.predict import predict, write_csv
from mer_zoo.priors import priors
from mer_zoo.runs import MEAN_OF_FOLDS, OUT_OF_FOLD, RunConfig, find_run, list_runs, summaries
from mer_zoo.search import search
from mer_zoo.settings import Settings
from mer_zoo.train import train
from mer_zoo.vote_shift import vote_shift

ToyStore = Callable[[Path], Store]
QUICK = Settings(epochs=6, lr=1e-2)
SMALL = {"hidden": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: ToyStore) -> Store:
    """Return a store with a run `fused` of three modalities and `heard` of audio alone."""
    store = toy(tmp_path_factory.mktemp("trained") / "store")
    train(store, "mlp", folds=3, params=SMALL, settings=QUICK, name="fused", command="typed")
    train(store, "mlp", features=["sound-UTT"], folds=3, params=SMALL, settings=QUICK, name="heard")
    return store


def test_a_run_says_everything_that_made_it(trained: Store) -> None:
    """Configuration, scores, history, weights, predictions and parents are with the run."""
    run = find_run(trained, "fused")
    config = run.config
    assert (config.model, config.labels, config.split, config.classes) == (
        "mlp", "gold", "train", ("angry", "happy", "sad"),
    )  # fmt: skip
    assert config.params == {"hidden": 16, "layers": 1, "dropout": 0.3}
    assert config.inputs.chosen["audio"].fingerprint == trained.features["sound-UTT"].fingerprint
    assert (config.fold_count, config.grouped_by, len(config.folds)) == (3, "speaker", 48)
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert [part["name"] for part in run.history] == ["fold-0", "fold-1", "fold-2"]
    assert set(run.bundle.parents) == {
        "labels/gold", "features/sound-UTT", "features/face-UTT", "features/words-UTT",
    }  # fmt: skip
    assert {"fold-0.safetensors", "fold-2.safetensors"} < set(run.bundle.files)
    commits = {commit.number: commit for commit in trained.log()}
    assert commits[run.bundle.commit].command == "typed"
    assert "WAF" in commits[run.bundle.commit].message


def test_no_speaker_is_on_both_sides(trained: Store) -> None:
    """Each speaker's clips are validated in one fold."""
    folds = find_run(trained, "fused").config.folds
    for speaker in {trained.clips[key].speaker for key in folds}:
        assert len({fold for key, fold in folds.items() if trained.clips[key].speaker == speaker}) == 1


def test_folds_do_not_depend_on_features(trained: Store) -> None:
    """A run on fewer modalities has the folds of the others, for the clips it has features of."""
    fused, heard = (find_run(trained, name).config.folds for name in ("fused", "heard"))
    assert set(heard) < set(fused)
    assert heard == {key: fused[key] for key in heard}


def test_it_learned(trained: Store) -> None:
    """Out of fold and on the test split the three modalities beat chance by far."""
    assert find_run(trained, "fused").scores.waf > 0.8
    assert evaluate(trained, "fused").waf > 0.8


def test_training_repeats_itself(trained: Store, tmp_path: Path, toy: ToyStore) -> None:
    """The same store, seed and settings give the same predictions, to the bit."""
    again = toy(tmp_path / "store")
    train(again, "mlp", folds=3, params=SMALL, settings=QUICK, name="fused")
    first, second = (predict(store, "fused", "test") for store in (trained, again))
    assert first.keys == second.keys
    np.testing.assert_array_equal(first.probs, second.probs)


def test_clips_without_features_are_left_out_and_told(store: Store) -> None:
    """A labelled clip without any features does not train, and the result says so."""
    result = train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1))
    assert (result.name, result.human, result.pseudo) == ("mlp-1", 48, 0)
    assert any("1 labelled clip without" in notice for notice in result.notices)
    assert train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1)).name == "mlp-2"


def test_predictions_of_training_clips_are_out_of_fold(trained: Store) -> None:
    """Clips the run saw get the stored out-of-fold prediction; all others the mean of the folds."""
    run = find_run(trained, "fused")
    found = predict(trained, "fused", keys=["test-03", "train-04"])
    assert found.origin.tolist() == [MEAN_OF_FOLDS, OUT_OF_FOLD]
    stored = run.predictions
    np.testing.assert_array_equal(found.probs[1], stored.probs[stored.keys.index("train-04")])
    np.testing.assert_allclose(found.probs.sum(1), 1, rtol=1e-5)


def test_out_of_fold_predictions_are_by_the_fold_that_had_not_seen_the_clip(trained: Store) -> None:
    """Loading a fold's weights and predicting its validation clips gives the stored probabilities."""
    import torch

    from mer_zoo.data import load_features
    from mer_zoo.prepared import mean_probs

    run = find_run(trained, "fused")
    keys = [key for key, fold in run.config.folds.items() if fold == 1]
    features = load_features(trained, run.config.inputs, keys, pooled=True)
    probs = mean_probs([run.modules()[1]], features, torch.arange(len(keys)))
    stored = run.predictions
    expected = stored.probs[[stored.keys.index(key) for key in keys]]
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_what_cannot_be_predicted_is_listed(trained: Store) -> None:
    """Clips without the run's features are in `missing`, and an error when there are no others."""
    found = predict(trained, "heard", "unlabeled")
    assert "unlabeled-05" not in found.keys
    assert len(found.keys) + len(found.missing) == 30
    with pytest.raises(ZooError, match="mer-fs extract"):
        predict(trained, "heard", keys=["none"])


def test_predictions_as_csv(trained: Store, tmp_path: Path) -> None:
    """The CSV has a row per clip with label, confidence and a probability per class."""
    found = predict(trained, "fused", "test")
    write_csv(found, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == list(found.keys)
    assert list(rows[0]) == ["key", "label", "confidence", "p_angry", "p_happy", "p_sad", "origin"]
    assert rows[0]["label"] == found.labels[0]


def test_an_evaluation_is_on_record(trained: Store) -> None:
    """Scoring a split leaves a record in the journal that is no run, and listing shows it with its run."""
    before = list_runs(trained)
    found = evaluate(trained, "heard", "test", command="typed")
    assert list_runs(trained) == before
    record = trained.runs[found.record]
    assert record.json("scores.json")["scores"]["waf"] == found.waf
    assert set(record.parents) == {"runs/heard", "labels/gold"}
    assert next(iter(trained.log(1))).command == "typed"
    (summary,) = [s for s in summaries(trained) if s["name"] == "heard"]
    assert summary["evaluations"][-1]["waf"] == found.waf
    with pytest.raises(ZooError, match="name the run itself: heard"):
        find_run(trained, found.record)


def test_evaluation_counts_what_it_could_not_score(trained: Store) -> None:
    """Test clips without audio are not scored by the audio run, and are named."""
    found = evaluate(trained, "heard")
    assert found.n + len(found.missing) == 24
    assert found.missing


def test_other_features_are_refused(trained: Store) -> None:
    """A run refuses features of another fingerprint, for prediction and evaluation."""
    run = find_run(trained, "fused")
    document = run.config.to_json()
    document["inputs"]["features"]["video"]["fingerprint"] = "0" * 64
    run.__dict__["config"] = RunConfig.from_json(document)
    with pytest.raises(FingerprintMismatch, match="face-UTT"):
        predict(trained, run, "test")
    with pytest.raises(FingerprintMismatch, match="face-UTT"):
        evaluate(trained, run)


def pseudo_layer(store: Store, labels: dict[str, str], confidence: float = 0.6) -> None:
    """Publish a layer `round1` over gold with these pseudo-labels."""
    layer = LabelLayer.human("round1", ("angry", "happy", "sad"), labels, parents=("labels/gold",))
    n = len(labels)
    probs = layer.probs * confidence + (1 - layer.probs) * (1 - confidence) / 2
    sure = np.full(n, confidence, np.float32)
    store.labels.add(replace(layer, source=np.ones(n, np.uint8), probs=probs, confidence=sure))


def test_pseudo_labelled_clips_train_in_every_fold_and_are_never_validated(store: Store) -> None:
    """They join each training part; folds and out-of-fold scores are of human-labelled clips alone."""
    store.clips.add([Clip(key="extra", split="test", audio="a")])
    pseudo_layer(store, {"unlabeled-00": "sad", "unlabeled-01": "happy", "extra": "angry"})
    result = train(store, "mlp", labels="round1", folds=3, params=SMALL, settings=Settings(epochs=1))
    config = find_run(store, result.name).config
    assert (result.human, result.pseudo, result.scores.n) == (48, 2, 48)
    assert config.pseudo == ("unlabeled-00", "unlabeled-01")
    assert not set(config.pseudo) & set(config.folds)
    assert any("1 pseudo-labelled test clip" in notice for notice in result.notices)
    stored = find_run(store, result.name).predictions
    origins = dict(zip(stored.keys, stored.origin.tolist(), strict=True))
    assert origins["unlabeled-00"] == MEAN_OF_FOLDS
    assert origins["train-00"] == OUT_OF_FOLD


def test_members_learn_from_pseudo_labels_as_told(store: Store) -> None:
    """Hard labels by default; probabilities and confidence weights on request."""
    from mer_zoo.planning import targets_of
    from mer_zoo.trainset import train_set

    pseudo_layer(store, {"unlabeled-00": "sad"})
    chosen = train_set(store, "round1", "train")
    at = chosen.keys.index("unlabeled-00")

    def targets(*, soft: bool, weights: bool) -> tuple[list[float], float]:
        made = targets_of(chosen, soft_labels=soft, confidence_weights=weights)
        return made.probs[at].tolist(), float(made.weight[at])

    assert targets(soft=False, weights=False) == ([0, 0, 1], 1.0)
    assert targets(soft=True, weights=True) == (pytest.approx([0.2, 0.2, 0.6]), pytest.approx(0.6))


def test_test_labels_are_not_read_by_training(store: Store, tmp_path: Path, toy: ToyStore) -> None:
    """Other labels of test clips change nothing about a run."""
    other = toy(tmp_path / "other")
    gold = other.labels["gold"]
    shuffled = {k: ("angry" if k.startswith("test") else gold[k]) for k in gold.keys}
    other.labels.add(LabelLayer.human("wrong", gold.classes, shuffled))
    settings = Settings(epochs=2)
    train(store, "mlp", folds=2, params=SMALL, settings=settings, labels="gold", name="a")
    train(other, "mlp", folds=2, params=SMALL, settings=settings, labels="wrong", name="a")
    first, second = (predict(s, "a", "test").probs for s in (store, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"card": "agtt"}, UnknownName, "did you mean 'agt'"),
        ({"labels": "golt"}, UnknownName, "did you mean 'gold'"),
        ({"features": ["sound-UT"]}, UnknownName, "did you mean 'sound-UTT'"),
        ({"params": {"hiden": 1}}, UnknownName, "did you mean 'hidden'"),
        ({"params": {"hidden": "many"}}, ZooError, "whole number"),
        ({"params": {"hidden": "0"}}, ZooError, r"mlp cannot be built with hidden=0: its .* is empty"),
        ({"params": {"layers": -1}}, ZooError, "parameter layers is -1; give a number of 0 or more"),
        (
            {"params": {"dropout": "1"}},
            ZooError,
            r"a dropout rate of 1 cannot be used; use 0 or more, below 1",
        ),
        ({"params": {"dropout": 1.5}}, ZooError, "below 1"),
        ({"params": {"dropout": "nan"}}, ZooError, "parameter dropout is nan"),
        ({"card": "align-attention", "params": {"align_weight": -1}}, ZooError, "a loss cannot weigh -1"),
        ({"card": "align-attention", "params": {"align_weight": -math.inf}}, ZooError, "give a number;"),
        ({"card": "logreg", "params": {"dropout": -0.1}}, ZooError, "a dropout rate of -0.1 cannot"),
        ({"card": "agt", "params": {"heads": 0}}, ZooError, "agt cannot be built with heads=0"),
        ({"card": "ef-lstm", "params": {"steps": 0}}, ZooError, "use steps of 1 or more"),
        ({"seed": -1}, ZooError, "-1 cannot be a seed"),
        ({"seed": 2**32}, ZooError, "use a whole number from 0 to 4294967295"),
        ({"split": "trian"}, UnknownName, "did you mean 'train'"),
        ({"split": "test"}, ZooError, "test clips never train"),
        ({"split": "unlabeled"}, ZooError, r"labelled clips are of: test \(24\), train \(49\)"),
        ({"device": "cuda:99"}, ZooError, "--device cpu"),
        ({"name": "../x"}, Exception, "cannot be the name of a run"),
    ],
)
def test_mistakes_are_told_before_training(
    toy_store: Store, options: dict[str, object], error: type[Exception], match: str
) -> None:
    """A wrong name or an empty selection is one error with a remedy."""
    with pytest.raises(error, match=match):
        train(toy_store, **{"card": "mlp", **options})


def test_a_seed_that_no_generator_takes_is_refused_everywhere(trained: Store) -> None:
    """Whatever draws says so in words, before it works."""
    (run,) = list_runs(trained)[:1]
    for draw in (
        lambda seed: search(trained, "mlp", seed=seed),
        lambda seed: compare(trained, run, run, seed=seed),
        lambda seed: priors(trained, run, seed=seed),
        lambda seed: vote_shift(trained, [run], seed=seed),
    ):
        for seed in (-1, 2**32):
            with pytest.raises(ZooError, match="cannot be a seed"):
                draw(seed)


def test_labels_of_one_class(store: Store) -> None:
    """Labels of a single class teach nothing: no run with perfect scores is made of them."""
    keys = store.labels["gold"].keys
    store.labels.add(LabelLayer.human("one", ("angry", "sad"), dict.fromkeys(keys, "sad")))
    with pytest.raises(ZooError, match="of class 'sad': there is nothing to tell apart"):
        train(store, "mlp", labels="one", name="one")
    assert "one" not in store.runs


def test_a_name_is_given_once(trained: Store) -> None:
    """A run of that name is not overwritten."""
    with pytest.raises(NameTaken):
        train(trained, "mlp", name="fused")


def test_the_past_cannot_be_written(store: Store) -> None:
    """A store opened at an old commit refuses to train before it trains."""
    with pytest.raises(StoreError, match="which is past"):
        train(Store.open(store.url, at=store.commit), "mlp")


def test_labels_without_features(store: Store) -> None:
    """When no labelled clip has features, the remedy is to extract."""
    store.clips.add([Clip(key="new", split="fresh", audio="a")])
    store.labels.add(LabelLayer.human("fresh", ("a", "b"), {"new": "a"}))
    with pytest.raises(ZooError, match="mer-fs extract"):
        train(store, "mlp", labels="fresh", split="fresh")


def test_a_class_the_run_does_not_know(store: Store) -> None:
    """Evaluating against a foreign class names the clip and the class."""
    train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1))
    store.labels.add(LabelLayer.human("other", ("angry", "bored"), {"test-00": "bored"}))
    with pytest.raises(BadInput, match="'test-00' is labelled 'bored'"):
        evaluate(store, "mlp-1", labels="other")


def test_labels_in_another_order_are_matched_by_name(store: Store) -> None:
    """A layer with the same classes in another order scores the same."""
    train(store, "mlp", folds=2, params=SMALL, settings=QUICK)
    gold = store.labels["gold"]
    flipped = {k: str(gold[k]) for k in gold.keys if k.startswith("test")}
    store.labels.add(LabelLayer.human("flipped", ("sad", "happy", "angry"), flipped))
    assert evaluate(store, "mlp-1", labels="flipped").waf == evaluate(store, "mlp-1").waf


def test_a_run_of_a_newer_format(trained: Store) -> None:
    """A run that a newer version wrote is refused with the remedy."""
    document = find_run(trained, "heard").config.to_json() | {"format": 99}
    with pytest.raises(ZooError, match="upgrade"):
        RunConfig.from_json(document)


@pytest.mark.parametrize(
    ("facts", "told"),
    [("flags : fpu avx512f", True), ("flags : fpu amx_bf16", False), ("Features : fp asimd bf16", False)],
)
def test_a_slow_precision_is_told(
    facts: str, told: bool, toy: ToyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 trains anywhere, and is noticed where the processor has no instructions for it."""
    (tmp_path / "cpuinfo").write_text(facts, encoding="utf-8")
    monkeypatch.setattr(devices, "_CPU_FACTS", tmp_path / "cpuinfo")
    store, slow = toy(tmp_path / "store"), Settings(precision="bfloat16")
    plan = make_plan(store, "mlp", folds=3, settings=slow, device="cpu")
    assert any("no bfloat16 instructions" in notice for notice in plan.notices) is told
    assert RunConfig.from_json(plan.config.to_json()).settings.precision == "bfloat16"
    assert "bfloat16" not in " ".join(make_plan(store, "mlp", folds=3, device="cpu").notices)


def test_a_precision_there_is_not() -> None:
    """An unknown precision is refused by name."""
    with pytest.raises(UnknownName, match="float16"):
        Settings(precision="float16")
