"""Runs can be repeated from what they say of themselves, and removed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import NameTaken, StoreError, UnknownName
from mer_featurestore.maintenance import gc, remove
from mer_zoo.compare import compare
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.predict import predict
from mer_zoo.pseudo_label import pseudo_label
from mer_zoo.removal import remove_run
from mer_zoo.rerun import rerun
from mer_zoo.runs import RunConfig, find_run, list_runs
from mer_zoo.settings import Settings
from mer_zoo.train import train

ToyStore = Callable[[Path], Store]
QUICK = Settings(epochs=3, lr=1e-2)
SMALL = {"hidden": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: ToyStore) -> Store:
    """Return a store with runs `first` and `second` on pseudo-labels; only reruns are added."""
    store = toy(tmp_path_factory.mktemp("rerun") / "store")
    train(store, "attention", folds=3, params=SMALL, settings=QUICK, name="first", seed=3)
    layer = LabelLayer.human(
        "round1", ("angry", "happy", "sad"), {"unlabeled-00": "sad"}, parents=("labels/gold",)
    )
    store.labels.add(replace(layer, source=np.ones(1, np.uint8)))
    train(
        store, "mlp", labels="round1", features=["sound-UTT"], folds=2, params=SMALL,
        settings=replace(QUICK, class_weights=True), name="second", standardise=False, soft_labels=True,
    )  # fmt: skip
    return store


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_rerun_is_the_run_to_the_bit(trained: Store, name: str) -> None:
    """Same metrics, folds, history and predictions; the new run says what it repeats."""
    found = rerun(trained, name, name=f"{name}-again", command="typed")
    old, new = find_run(trained, name), find_run(trained, f"{name}-again")
    assert (found.identical, found.difference, found.changed) == (True, 0.0, {})
    assert new.metrics == old.metrics
    assert new.history == old.history
    assert new.config == old.config
    np.testing.assert_array_equal(new.predictions.probs, old.predictions.probs)
    first, second = (predict(trained, run, "test").probs for run in (old, new))
    np.testing.assert_array_equal(first, second)
    assert new.bundle.attrs["rerun_of"] == name
    assert next(iter(trained.log(1))).command == "typed"


def test_a_rerun_reads_the_store_as_it_was(store: Store) -> None:
    """Features extracted since, and clips that changed their split, do not change the rerun."""
    train(store, "mlp", folds=2, params=SMALL, settings=QUICK, name="a")
    with store.features.writer(store.features["sound-UTT"].spec) as writer:
        writer.add("none", np.ones(6, np.float32))
    store.clips.add([replace(store.clips["train-00"], split="other")], update=True)
    found = rerun(store, "a")
    assert found.identical
    assert find_run(store, found.result.name).config.commit == find_run(store, "a").config.commit


def test_what_cannot_be_repeated_is_told(store: Store) -> None:
    """An unknown run, a taken name, other clips, a commit given up, a removed space: one error each."""
    train(store, "mlp", features=["sound-UTT"], folds=2, params=SMALL, settings=Settings(epochs=1), name="a")
    with pytest.raises(UnknownName, match="no run named 'b'"):
        rerun(store, "b")
    with pytest.raises(NameTaken):
        rerun(store, "a", name="a")
    run = find_run(store, "a")
    run.__dict__["config"] = replace(run.config, pseudo=("unlabeled-00",))
    with pytest.raises(ZooError, match=r"a was trained on .* \+ 1 clips"):
        rerun(store, run)
    remove(store, "features/face-FRA")
    gc(store, keep=1, grace=0)
    with pytest.raises(StoreError, match="commit"):
        rerun(store, "a")
    remove(store, "features/sound-UTT", force=True)
    with pytest.raises(UnknownName, match="sound-UTT"):
        rerun(store, "a")


def test_another_version_is_told(trained: Store) -> None:
    """When packages differ from those of the run, the rerun names them."""
    run = find_run(trained, "second")
    document = run.config.to_json()
    document["versions"]["torch"] = "1.0"
    run.__dict__["config"] = RunConfig.from_json(document)
    assert rerun(trained, run).changed["torch"][0] == "1.0"


def test_removing_a_run_takes_its_evaluations_along(store: Store) -> None:
    """A run and its evaluations go; what else stands on it is a reason to refuse, unless forced."""
    for name in ("a", "b"):
        train(store, "mlp", folds=2, params=SMALL, settings=Settings(epochs=1), name=name)
    record = evaluate(store, "a").record
    assert remove_run(store, "a", dry_run=True).dependents == ()
    comparison = compare(store, "a", "b", split="test").record
    with pytest.raises(StoreError, match=f"runs/{comparison} would lose where it came from|they came from"):
        remove_run(store, "a")
    assert record in store.runs
    remove_run(store, comparison)
    assert remove_run(store, "a", command="typed").ref == "runs/a"
    assert (list_runs(store), record in store.runs) == (["b"], False)
    assert next(iter(store.log(1))).command == "typed"
    with pytest.raises(UnknownName, match="no run named 'a'"):
        remove_run(store, "a")
    pseudo_label(store, ["b"], threshold=0.0, name="round1")
    with pytest.raises(StoreError, match="labels/round1"):
        remove_run(store, "b")
    remove_run(store, "b", force=True)
    assert list_runs(store) == []
