"""Training notices, or refuses, what would make its scores too good."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mer_featurestore import LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import FingerprintMismatch
from mer_zoo.compare import compare
from mer_zoo.evaluate import evaluate
from mer_zoo.guards import Leak, copies_in_training, labels_seen, leaks
from mer_zoo.planning import make_plan
from mer_zoo.predict import predict
from mer_zoo.rerun import rerun
from mer_zoo.runs import RunConfig, find_run
from mer_zoo.settings import Settings
from mer_zoo.train import train

SMALL = {"hidden": 4}
ONCE = Settings(epochs=1)


def adapt(
    store: Store,
    training: dict[str, Any] | None,
    parents: tuple[str, ...] = ("labels/gold",),
    splits: tuple[str, ...] = ("train",),
) -> Store:
    """Add an adapter whose card says this of its training, and a space `tuned-UTT` that stands on it."""
    card = json.dumps({"format": 1, "training": training}).encode()
    store.adapters.add("lora", {"card.json": card, "adapter_model.safetensors": b"x"}, parents=parents)
    spec = SpaceSpec(
        name="tuned-UTT", modality="audio", level="utt", row_shape=(3,), parents=("adapters/lora",)
    )
    rng = np.random.default_rng(0)
    with store.features.writer(spec) as writer:
        for clip in store.clips.select(split=splits):
            writer.add(clip.key, rng.normal(size=3).astype(np.float32))
    return store


def copy(store: Store, *keys: str) -> None:
    """Give clips the same content."""
    store.clips.add([replace(store.clips[key], content_hash="a" * 64) for key in keys], update=True)


def plan(store: Store, **options: Any) -> Any:
    """Plan a quick training."""
    return make_plan(store, "mlp", **{"folds": 2, "params": SMALL, **options})


def test_an_adapter_that_saw_the_validation_labels_is_noticed(store: Store) -> None:
    """Features of an adapter tuned on the clips now validated on: a notice with its name; strict refuses."""
    adapt(store, {"labels": "gold", "keys": ["train-00", "train-01", "test-00"], "folds": None})
    (notice,) = plan(store, features=["tuned-UTT"]).notices
    assert notice.startswith(
        "tuned-UTT comes from adapters/lora, which was tuned on the labels of 2 of the 49"
    )
    assert "train-00, train-01" in notice
    before = store.commit
    with pytest.raises(Leak, match=r"adapters/lora.* go on without --strict"):
        train(store, "mlp", features=["tuned-UTT"], folds=2, params=SMALL, settings=ONCE, strict=True)
    assert store.commit == before
    result = train(store, "mlp", features=["tuned-UTT"], folds=2, params=SMALL, settings=ONCE)
    assert notice in result.notices


def test_scores_on_clips_whose_labels_tuned_the_features_are_noticed(store: Store) -> None:
    """Evaluation and comparison on another split say so too, once however many runs read the features."""
    adapt(store, {"labels": "gold", "keys": ["test-00", "test-01"], "folds": None}, splits=("train", "test"))
    for name in ("a", "b"):
        found = train(
            store, "mlp", features=["tuned-UTT"], folds=2, params=SMALL, settings=ONCE, name=name,
            seed=ord(name),
        )  # fmt: skip
        assert found.notices == ()
    (notice,) = evaluate(store, "a", "test").notices
    assert "adapters/lora, which was tuned on the labels of 2 of the 24 clips" in notice
    assert compare(store, "a", "b", split="test").notices == (notice,)
    assert evaluate(store, "a", "train").notices == ()


def test_a_card_that_says_nothing_is_taken_at_its_worst(store: Store) -> None:
    """Without a list of clips, every human label of the adapter's label layers was seen."""
    adapt(store, None)
    assert labels_seen(store, store.adapters["lora"]) == set(store.labels["gold"].keys)
    assert "49 of the 49 clips" in plan(store, features=["tuned-UTT"]).notices[0]


@pytest.mark.parametrize(
    "training",
    [{"keys": ["test-00"]}, {"keys": [], "folds": None}, {"keys": ["train-00"], "folds": {"train-00": 1}}],
)
def test_an_adapter_that_saw_none_of_these_labels_is_fine(store: Store, training: dict[str, Any]) -> None:
    """Other clips, no clips, or out-of-fold extraction: nothing to notice, and strict trains."""
    adapt(store, training)
    assert plan(store, features=["tuned-UTT"], strict=True).notices == ()


def test_labels_that_no_fold_left_out_are_seen(store: Store) -> None:
    """A clip whose label was used and that is in no fold is extracted with weights that saw it."""
    adapt(store, {"keys": ["train-00", "train-01", "train-02"], "folds": {"train-00": 0, "train-01": 1}})
    assert labels_seen(store, store.adapters["lora"]) == {"train-02"}
    assert "labels of 1 of the 49 clips" in plan(store, features=["tuned-UTT"]).notices[0]


def test_an_adapter_without_labels_is_fine(store: Store) -> None:
    """One made without labels (an alignment of unlabelled clips) leaks none."""
    adapt(store, None, parents=("features/sound-UTT",))
    assert plan(store, features=["tuned-UTT"]).notices == ()


def test_an_adapter_far_above_is_found(store: Store) -> None:
    """The lineage is walked to its top: a space derived from a tuned space leaks as well."""
    adapt(store, {"keys": ["train-00"]})
    spec = SpaceSpec(
        name="derived-UTT", modality="audio", level="utt", row_shape=(2,), parents=("features/tuned-UTT",)
    )
    keys = store.features["tuned-UTT"].keys()
    with store.features.writer(spec) as writer:
        for key in keys:
            writer.add(key, np.ones(2, np.float32))
    assert "derived-UTT comes from adapters/lora" in plan(store, features=["derived-UTT"]).notices[0]


def test_an_adapter_that_is_gone_is_told(store: Store) -> None:
    """When the adapter was removed, nobody knows what it saw, and the notice says that."""
    from mer_featurestore.maintenance import remove

    adapt(store, {"keys": []})
    remove(store, "adapters/lora", force=True)
    assert "which is gone" in plan(store, features=["tuned-UTT"]).notices[0]


def test_an_adapter_from_a_folder_is_told(store: Store) -> None:
    """A space made with an adapter that never was in the store is noticed, derived from or used itself."""
    keys = [clip.key for clip in store.clips.select(split="train")]
    facts: dict[str, Any] = {"modality": "audio", "level": "utt", "row_shape": (2,)}
    made_by = {"plugin": "hubert-large", "adapter": {"type": "LORA", "sha256": "0"}}
    for name, more in (("own", {"made_by": made_by}), ("derived", {"parents": ("features/own-UTT",)})):
        with store.features.writer(SpaceSpec(name=f"{name}-UTT", **facts, **more)) as writer:
            for key in keys:
                writer.add(key, np.ones(2, np.float32))
    for name in ("own-UTT", "derived-UTT"):
        (notice,) = plan(store, features=[name]).notices
        assert notice.startswith("own-UTT was made with an adapter that is not in the store")
    with pytest.raises(Leak, match="mer-fs adapters add FOLDER"):
        plan(store, features=["derived-UTT"], strict=True)


def told(store: Store, **options: Any) -> list[str]:
    """Return the notices of a plan that are about copies."""
    return [n for n in plan(store, **options).notices if "cop" in n]


def test_copies_stay_in_one_fold(store: Store) -> None:
    """By default copies of a clip are never on both sides, though their speakers differ."""
    copy(store, "train-00", "train-01", "train-02")
    made = plan(store, folds=3)
    assert len({made.config.folds[f"train-0{i}"] for i in range(3)}) == 1
    assert told(store, folds=3) == []


def test_copies_over_folds_are_noticed(store: Store) -> None:
    """With folds by speaker alone, copies of two speakers in two folds are noticed; strict refuses."""
    folds = plan(store, folds=4, group_by="speaker").config.folds
    other = next(key for key in folds if folds[key] != folds["train-00"])
    copy(store, "train-00", other)
    (notice,) = told(store, folds=4, group_by="speaker")
    assert "both trained and validated on" in notice
    assert repr(other) in notice
    with pytest.raises(Leak, match="--group-by auto keeps copies together"):
        plan(store, folds=4, group_by="speaker", strict=True)


def test_a_pseudo_labelled_copy_is_noticed(store: Store) -> None:
    """A pseudo-labelled clip trains in every fold, so that a copy of it is never held out."""
    layer = LabelLayer.human(
        "round1", ("angry", "happy", "sad"), {"unlabeled-00": "sad"}, parents=("labels/gold",)
    )
    store.labels.add(replace(layer, source=np.ones(1, np.uint8)))
    copy(store, "unlabeled-00", "train-00")
    assert told(store) == []
    assert "'train-00' and 'unlabeled-00'" in told(store, labels="round1")[0]


def test_copies_of_test_clips_are_noticed(store: Store) -> None:
    """A training clip with the content of a test clip is named."""
    copy(store, "train-07", "test-00")
    (notice,) = told(store)
    assert notice.startswith("1 clip of the training set is a copy of test clips (train-07)")
    made = plan(store)
    assert leaks(store, made.config.inputs, made.config.folds) == (notice,)


def test_clips_without_a_hash_are_no_copies(store: Store) -> None:
    """Where no content is known nothing is claimed, at training and at evaluation."""
    train(store, "mlp", folds=2, params=SMALL, settings=ONCE, name="a", strict=True)
    assert copies_in_training(store, find_run(store, "a"), ["test-00"]) == []


def test_every_use_of_a_run_refuses_other_features(store: Store) -> None:
    """Predicting, evaluating, comparing and repeating refuse a space that was made otherwise."""
    from mer_zoo.compare import compare

    for name in ("a", "b"):
        train(store, "mlp", folds=2, params=SMALL, settings=ONCE, name=name)
    run = find_run(store, "a")
    document = run.config.to_json()
    document["inputs"]["features"]["video"]["fingerprint"] = "0" * 64
    run.__dict__["config"] = RunConfig.from_json(document)
    uses = (
        lambda: predict(store, run, "test"),
        lambda: evaluate(store, run),
        lambda: compare(store, run, "b", split="test"),
        lambda: rerun(store, run),
    )
    for use in uses:
        with pytest.raises(FingerprintMismatch, match=r"a was trained on 'face-UTT' with fingerprint 000"):
            use()


def test_an_adapter_taken_in_by_the_store_is_understood(store: Store, tmp_path: Any) -> None:
    """What `mer-fs adapters add --labels gold --split train` notes is what the guard reads."""
    import torch
    from safetensors.torch import save_file

    from mer_plugins import adapters

    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "some/base",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    module = "base_model.model.encoder.layers.0.attention.q_proj"
    weights = {f"{module}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    bundle = adapters.add(store, tmp_path, "lora", labels="gold", split=["train"])
    assert labels_seen(store, bundle) == {k for k in store.labels["gold"].keys if not k.startswith("test")}
