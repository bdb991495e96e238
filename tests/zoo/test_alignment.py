"""Visual-to-acoustic alignment."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import NameTaken, UnknownName
from mer_featurestore.lineage import ancestors
from mer_plugins.deriving import derive, project
from mer_zoo.alignment import LOSSES, AlignSettings
from mer_zoo.alignment.aligning import Aim, align
from mer_zoo.alignment.fitting import numbered
from mer_zoo.alignment.head import Head, folded, length_of
from mer_zoo.alignment.losses import PairLoss
from mer_zoo.alignment.pairs import choose_pairs, find_space
from mer_zoo.alignment.retrieval import chance, few, mean_of, oracle, rate, retrieve
from mer_zoo.alignment.rows import Rows
from mer_zoo.errors import ZooError
from mer_zoo.guards import tuned_on_validation
from mer_zoo.registry import find_model
from mer_zoo.settings import Settings
from mer_zoo.spaces import choose
from mer_zoo.train import train
from mer_zoo.training import Diverged

CLASSES = ("angry", "happy", "sad")
SIZES = {"train": 60, "unlabeled": 160, "test": 40}
FAST = AlignSettings(epochs=30, lr=3e-3, batch_size=64)


def make(folder: Path, seed: int = 0) -> Store:
    """Return a store in which `face-UTT` [12] and `voice-UTT` [8] of a clip show the same six hidden numbers.

    260 clips of 39 speakers; five clips lack a voice. `words-UTT` [5] knows the class. Train and test have
    labels.
    """
    random = np.random.default_rng(seed)
    store, clips, label = Store.create(folder), [], {}
    for split, count in SIZES.items():
        for i in range(count):
            key = f"{split}-{i:03d}"
            label[key] = CLASSES[i % 3]
            clips.append(
                Clip(key=key, split=split, speaker=f"{split}{i % 13}", video="v", audio="a", text="t")
            )
    store.clips.add(clips)
    hidden = {c.key: random.normal(size=6) + 2 * CLASSES.index(label[c.key]) for c in clips}
    for name, modality, width in (("face", "video", 12), ("voice", "audio", 8), ("words", "text", 5)):
        view, shift = random.normal(size=(6, width)), random.normal(size=width) * 10
        rows = {k: (h @ view + 0.5 * random.normal(size=width)) * 3 + shift for k, h in hidden.items()}
        if name == "voice":
            rows = {k: row for i, (k, row) in enumerate(rows.items()) if i % 53}
        add(store, name, modality, rows)
    store.labels.add(LabelLayer.human("gold", CLASSES, {k: v for k, v in label.items() if "unl" not in k}))
    return store


def add(store: Store, name: str, modality: Any, rows: Mapping[str, NDArray[Any]], **facts: Any) -> None:
    """Write an utterance-level space."""
    shape = next(iter(rows.values())).shape
    facts = {"made_by": {"plugin": name}, "level": "utt", "row_shape": shape, "modality": modality, **facts}
    with store.features.writer(SpaceSpec(name=f"{name}-UTT", **facts)) as writer:
        for key, row in rows.items():
            writer.add(key, row)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store to copy."""
    return Path(make(tmp_path_factory.mktemp("made") / "store").url)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """Return a store to write to."""
    return Store.open(shutil.copytree(made, tmp_path / "store"))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [0, 16])
def test_retrieval_rises_far_above_chance(store: Store, loss: str, hidden: int) -> None:
    """Every loss, with one map or two, lets held-out faces find their voices; random maps do not."""
    settings = AlignSettings(loss=loss, hidden=hidden, epochs=60, lr=5e-3, batch_size=64, dropout=0.1)
    aim = Aim(visual="face", to="voice", name="aligned", splits=("unlabeled", "train"))
    found = align(store, aim, settings)
    scores, guess = found.metrics["retrieval"], found.metrics["chance"]
    assert guess["R@5"] < 0.2
    assert scores["aligned"]["R@5"][0] > 3 * guess["R@5"]
    assert scores["aligned"]["ahead"][1] > 0.8
    for way in ("random", "pca"):
        assert abs(scores[way]["R@5"][0] - guess["R@5"]) < 0.25
        assert found.metrics["gain"][way]["R@5"][1] > 0.1  # the interval's lower end
    assert found.metrics["best_epoch"] > 0


def test_what_is_kept_maps_faces_to_the_units_of_voices(store: Store) -> None:
    """The adapter is one affine map: derived rows are near the voices themselves, mean and scale included."""
    align(
        store, Aim(visual="face", to="voice", name="aligned"), AlignSettings(loss="mse", epochs=80, lr=1e-2)
    )
    derive(store, "face-UTT", "aligned", project(store, "aligned"))
    space, voices = store.features["aligned-UTT"], store.features["voice-UTT"]
    assert (space.spec.row_shape, space.spec.modality) == ((8,), "video")
    keys = voices.keys()
    keys = [key for key in keys if key.startswith("test")]
    own, other = space.matrix(keys), voices.matrix(keys)
    assert np.abs(own - other).mean() < 0.5 * np.abs(other - other.mean(0)).mean()
    found = retrieve("", own, other)
    assert rate(found.ahead).value > 0.8
    assert len(space) == len(store.features["face-UTT"])  # clips without a voice have an aligned face


def test_the_adapter_says_what_it_is(store: Store) -> None:
    """Parents are both spaces; the card has the clips it saw, the rows it takes and the metrics."""
    found = align(store, Aim(visual="face-UTT", to="voice-UTT", name="aligned"), FAST)
    bundle = store.adapters["aligned"]
    card = bundle.json("card.json")
    assert set(bundle.parents) == {"features/face-UTT", "features/voice-UTT"}
    assert card["type"] == "PROJECTION"
    assert card["projection"] == [12, 8]
    assert card["training"] is None
    assert card["alignment"]["aligned_to"] == "voice-UTT"
    clips = found.metrics["clips"]
    assert len(card["alignment"]["keys"]) == clips["train"] + clips["valid"]
    assert all(key.startswith("unlabeled") for key in card["alignment"]["keys"])
    assert card["rows"]["fingerprint"] == store.features["face-UTT"].fingerprint
    assert card["metrics"]["retrieval"] == store.runs[found.record].json("metrics.json")["retrieval"]
    history = store.runs[found.record].json("history.json")
    assert {"loss", "ahead", "temperature"} == set(history[0])
    assert "features/voice-UTT" in ancestors(store.snapshot, f"runs/{found.record}")


def test_the_same_again(tmp_path: Path) -> None:
    """The seed decides everything; another seed gives another head."""
    heads = []
    for i, seed in enumerate((3, 3, 4)):
        store = make(tmp_path / str(i))
        align(store, Aim(visual="face", to="voice", name="a"), AlignSettings(epochs=4, seed=seed, hidden=5))
        heads.append(project(store, "a").projection)
    np.testing.assert_array_equal(heads[0].weight, heads[1].weight)
    np.testing.assert_array_equal(heads[0].bias2, heads[1].bias2)
    assert not np.array_equal(heads[0].weight, heads[2].weight)


def test_align_derive_train(store: Store) -> None:
    """The aligned space feeds a fusion model by key, and knows that its voices came from a tuned adapter."""
    align(store, Aim(visual="face", to="voice", name="aligned"), FAST)
    derive(store, "face-UTT", "aligned", project(store, "aligned"))
    spaces = ("voice-UTT", "aligned-UTT", "words-UTT")
    settings = Settings(epochs=15)
    run = train(store, "align-attention", features=spaces, labels="gold", folds=3, settings=settings)
    assert run.scores.waf > 0.6


def test_labels_behind_the_voices_are_not_forgotten(store: Store) -> None:
    """An aligned space stands on what its voices stand on: an adapter tuned on labels is reported by name."""
    layer = store.labels["gold"]
    card = {"format": 1, "training": {"labels": "gold", "keys": list(layer.keys), "folds": None}}
    import json

    store.adapters.add("tuned", {"card.json": json.dumps(card).encode()}, parents=("labels/gold",))
    voices = store.features["voice-UTT"]
    rows = dict(zip(voices.keys(), voices.matrix(), strict=True))
    add(store, "tuned", "audio", rows, parents=("adapters/tuned",))
    align(store, Aim(visual="face", to="tuned", name="aligned"), FAST)
    derive(store, "face-UTT", "aligned", project(store, "aligned"))
    inputs = choose(store, find_model("mlp"), ("aligned-UTT",))
    told = tuned_on_validation(store, inputs, ["train-001"])
    assert len(told) == 1
    assert "adapters/tuned" in told[0]


def test_a_probe_before_and_after(store: Store) -> None:
    """With labels the space is derived, and both are probed on the same train clips."""
    found = align(store, Aim(visual="face", to="voice", name="aligned", labels="gold"), FAST)
    before, after = found.metrics["probe"]["lines"]
    assert "aligned-UTT" in store.features
    assert min(before["waf"][0], after["waf"][0]) > 0.6
    assert "labels/gold" in store.runs[found.record].parents
    assert after["gain"][0] == pytest.approx(after["waf"][0] - before["waf"][0], abs=1e-6)


def test_a_split_is_held_out(store: Store) -> None:
    """`--held-out test` measures on test clips, with classes where a layer knows them; they never train."""
    found = align(store, Aim(visual="face", to="voice", name="a", held_out="test", judge="gold"), FAST)
    keys = store.adapters["a"].json("card.json")["alignment"]["keys"]
    assert not any(key.startswith("test") for key in keys)
    assert found.metrics["held_out"] == "test"
    assert found.metrics["retrieval"]["aligned"]["class@5"][0] > 2 * found.metrics["chance"]["class@5"]
    assert found.metrics["oracle"]["R@10"] > found.metrics["chance"]["R@10"]


def test_speakers_are_on_one_side(store: Store) -> None:
    """Training, validation and held-out clips share no speaker, and copies of held-out clips do not train."""
    visual, acoustic = find_space(store, "face"), find_space(store, "voice")
    pairs = choose_pairs(store, (visual, acoustic), ("unlabeled", "train"))
    sides = [{store.clips[key].speaker for key in part} for part in (pairs.train, pairs.valid, pairs.held)]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert "without one of the features" in pairs.notices[0]
    twin = Clip(key="unlabeled-twin", split="unlabeled", content_hash="c", video="v", audio="a")
    store.clips.add([twin, Clip(key="test-twin", split="test", content_hash="c", video="v", audio="a")])
    for name, modality, width in (("face", "video", 12), ("voice", "audio", 8)):
        add(store, name, modality, {key: np.ones(width) for key in ("unlabeled-twin", "test-twin")})
    visual, acoustic = find_space(store, "face"), find_space(store, "voice")
    pairs = choose_pairs(store, (visual, acoustic), ("unlabeled",), held_out="test")
    assert "unlabeled-twin" not in pairs.train + pairs.valid
    assert "test-twin" in pairs.held
    assert any("copies of held-out" in notice for notice in pairs.notices)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"visual": "fase"}, UnknownName, "did you mean 'face'.*mer-fs extract --plugin fase"),
        ({"to": "voices-of-others"}, UnknownName, "mer-fs extract --plugin voices-of-others"),
        ({"to": "face"}, ZooError, "aligned to itself"),
        ({"visual": "face-FRA"}, ZooError, "--pool mean"),
        ({"visual": "deep"}, ZooError, "--layers i-j"),
        ({"to": "elsewhere"}, ZooError, "1 of 160 clips of unlabeled have all.*1 have elsewhere-UTT"),
        ({"splits": ("test",)}, ZooError, "test clips never train"),
        ({"splits": ("unlabelled",)}, UnknownName, "did you mean 'unlabeled'"),
        ({"held_out": "unlabeled"}, ZooError, "cannot both train and be held out"),
        ({"splits": ("few",)}, ZooError, "too few clips"),
        ({"labels": "golden"}, UnknownName, "did you mean 'gold'"),
        ({"name": "taken"}, NameTaken, "choose another --as"),
        ({"name": "words", "labels": "gold"}, NameTaken, "there is a space 'words-UTT' already"),
        ({"judge": "gold"}, ZooError, "no held-out clip has a human label"),
    ],
)
def test_what_cannot_be_aligned(store: Store, changes: dict[str, Any], error: Any, told: str) -> None:
    """What cannot work is refused before training, with the command that helps, and nothing is written."""
    frames = SpaceSpec(name="face-FRA", modality="video", level="frame", row_shape=(12,), made_by={"v": 1})
    with store.features.writer(frames) as writer:
        writer.add("train-000", np.ones((3, 12)))
    add(store, "deep", "video", {"train-000": np.ones((4, 12))})
    add(store, "elsewhere", "audio", {"unlabeled-001": np.ones(4)})
    store.clips.add(Clip(key=f"few-{i}", split="few", video="v", audio="a") for i in range(5))
    for name, width in (("face", 12), ("voice", 8)):
        rows = {f"few-{i}": np.full(width, float(i)) for i in range(5)}
        add(store, name, "video" if name == "face" else "audio", rows)
    store.adapters.add("taken", {"card.json": b"{}"})
    before = store.commit
    with pytest.raises(error, match=told):
        align(store, Aim(**({"visual": "face", "to": "voice", "name": "aligned"} | changes)), FAST)
    assert store.commit == before


@pytest.mark.parametrize(
    "changes",
    [{"loss": "triplet"}, {"lr": 0}, {"lr": float("nan")}, {"dropout": 1}, {"batch_size": 1}, {"epochs": 0}],
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    """Settings out of range are refused."""
    with pytest.raises(ZooError):
        AlignSettings(**changes)


def test_a_loss_that_is_not_finite(store: Store) -> None:
    """Diverging training is an error that says so, and nothing is kept."""
    with pytest.raises(Diverged, match="lower --lr"):
        align(store, Aim(visual="face", to="voice", name="a"), AlignSettings(loss="mse", lr=1e30, epochs=3))
    assert not len(store.adapters)


def test_infonce_is_clips(store: Store) -> None:
    """The loss is the mean cross-entropy of both directions at a clamped, learnable temperature."""
    torch.manual_seed(0)
    given, wanted = torch.randn(7, 4), torch.randn(7, 4)
    loss = PairLoss("infonce", 0.1)
    near = F.normalize(given, dim=1) @ F.normalize(wanted, dim=1).T * 10
    own = torch.arange(7)
    expected = (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2
    torch.testing.assert_close(loss(given, wanted, torch.arange(7)), expected)
    loss(given, wanted, torch.arange(7)).backward()
    assert loss.log_scale.grad is not None
    assert float(loss.log_scale.grad) != 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    assert loss.temperature == pytest.approx(0.01)
    assert torch.isfinite(loss(given, wanted, torch.arange(7)))


def test_copies_are_no_negatives() -> None:
    """Copies are not pushed apart: of two clips of one content each has only itself to find."""
    torch.manual_seed(0)
    rows, loss = torch.randn(1, 4).repeat(2, 1), PairLoss("infonce").requires_grad_(False)
    assert float(loss(rows, rows, torch.tensor([0, 0]))) == pytest.approx(0)
    assert float(loss(rows, rows, torch.tensor([0, 1]))) == pytest.approx(np.log(2))
    assert numbered(["a", "", "a", ""]).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("hidden", [0, 5])
def test_folding(hidden: int) -> None:
    """A head between standardised spaces, and the projection between raw ones, are the same function."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    head = Head(6, 4, hidden=hidden).eval()
    reads = random.normal(size=6) * 5, random.uniform(0.1, 9, 6)
    gives = random.normal(size=4) * 5, random.uniform(0.1, 9, 4)
    rows = random.normal(size=(20, 6)).astype(np.float32) * 5
    inner = torch.from_numpy(((rows - reads[0]) / reads[1]).astype(np.float32))
    with torch.no_grad():
        expected = head(inner).numpy() * 1.7 * gives[1] + gives[0]
    np.testing.assert_allclose(folded(head, reads, gives, 1.7)(rows), expected, rtol=1e-4, atol=1e-4)
    assert length_of(torch.full((3, 2), 2.0), torch.full((3, 2), 6.0)) == pytest.approx(3)


def test_retrieval_by_hand() -> None:
    """R@k counts clips whose own voice is among the k nearest; equally near ones share the place."""
    query = np.eye(3)
    exact = retrieve("", query, np.eye(3), at=(1, 2))
    assert exact.hit[1].tolist() == [1, 1, 1]
    assert exact.ahead.tolist() == [1, 1, 1]
    turned = retrieve("", query, np.eye(3)[[1, 0, 2]], at=(1, 2))
    assert turned.hit[1].tolist() == [0, 0, 1]
    assert turned.hit[2].tolist() == [0.5, 0.5, 1]
    silent = retrieve("", np.ones((10, 3)), np.ones((10, 3)), ["a", "b"] * 5, at=(1, 5))
    assert silent.rates()["R@1"].value == pytest.approx(chance(10)["R@1"])
    assert silent.rates()["ahead"].value == pytest.approx(0.5)


def test_few_candidates() -> None:
    """Where k candidates or fewer are held out, a notice says that R@k is 1 by chance."""
    assert few(11) == []
    assert few(10)[0].startswith("only 10 held-out clips: R@10 cannot be below 1, which is chance")
    assert few(4)[0].startswith("only 4 held-out clips: R@5 and R@10 cannot")
    assert chance(4)["R@5"] == chance(10)["R@10"] == 1.0


def test_retrieval_by_class() -> None:
    """Class@k is the share of the own class among the k nearest others of known class."""
    gallery = np.array([[1, 0.0], [0.99, 0.1], [0, 1.0], [0.1, 0.99], [1, 1]])
    found = retrieve("", gallery, gallery, ["a", "a", "b", "b", None], at=(1, 3))
    assert found.same[1].tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(found.same[3], 1 / 3)
    assert chance(5, ["a", "a", "b", "b", None])["class@1"] == pytest.approx(1 / 3)
    assert oracle(["a", "a", "b"], at=(1, 2)) == {"R@1": pytest.approx(2 / 3), "R@2": 1.0}
    lonely = retrieve("", gallery, gallery, ["a", None, None, None, None], at=(1,))
    assert lonely.same == {}


def test_pieces_of_retrieval_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large galleries are compared in pieces, which changes nothing."""
    random = np.random.default_rng(0)
    query, gallery = random.normal(size=(2, 50, 4))
    whole = retrieve("", query, gallery, ["a", "b"] * 25)
    monkeypatch.setattr("mer_zoo.alignment.retrieval._CHUNK", 7)
    cut = retrieve("", query, gallery, ["a", "b"] * 25)
    for name, values in whole.values().items():
        np.testing.assert_allclose(values, cut.values()[name])
    np.testing.assert_allclose(mean_of("", [whole, cut]).ahead, whole.ahead)


def test_intervals_hold_the_value() -> None:
    """A rate lies within its interval, a paired gain of nothing over itself is exactly nothing."""
    random = np.random.default_rng(0)
    found = retrieve("", random.normal(size=(60, 4)), random.normal(size=(60, 4)))
    for value, low, high in found.rates().values():
        assert low <= value <= high
    assert set(found.above(found).values()) == {(0.0, 0.0, 0.0)}
    assert np.isnan(rate(np.empty(0)).value)


def test_rows_beyond_memory(store: Store) -> None:
    """Rows read batch by batch are those read at once, standardised by the clips that train."""
    space = store.features["face-UTT"]
    keys = space.keys()
    whole, cut = Rows(space, keys, keys[:30]), Rows(space, keys, keys[:30], memory=0)
    index = torch.tensor([5, 3, 200])
    torch.testing.assert_close(whole.take(index), cut.take(index))
    torch.testing.assert_close(whole.take(torch.arange(30)).mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    assert isinstance(Head(3, 2).first, nn.Linear)


def test_on_real_media(composite_store: Store, composite_labels: dict[str, str]) -> None:
    """Faces of speakers never heard find voices of their class twice as often as by chance, without labels.

    Voice and face of a composite clip share nothing but the class.
    """
    layer = LabelLayer.human("truth", tuple(sorted(set(composite_labels.values()))), composite_labels)
    composite_store.labels.add(layer)
    aim = Aim(
        visual="face-expression",
        to="whisper",
        name="aligned",
        splits=("unlabeled", "train"),
        held_out="test",
        judge="truth",
    )
    found = align(composite_store, aim).metrics
    aligned, guess = found["retrieval"]["aligned"], found["chance"]
    assert aligned["class@5"][1] > 1.5 * guess["class@5"]
    assert aligned["R@10"][0] > 1.5 * guess["R@10"]
    assert found["gain"]["random"]["ahead"][1] > 0
    assert found["gain"]["pca"]["ahead"][1] > 0
