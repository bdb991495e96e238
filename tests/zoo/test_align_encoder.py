"""Alignment of a visual encoder itself, from media."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import UnknownName
from mer_plugins.adapters import find
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.pooling import POOLINGS, pool_rows
from mer_plugins.samples import sample_clips
from mer_zoo.alignment import AlignSettings, EncoderSettings
from mer_zoo.alignment.aligning import Aim
from mer_zoo.alignment.encoding import align_encoder
from mer_zoo.alignment.joint import pooled
from mer_zoo.errors import ZooError
from mer_zoo.training import Diverged
from support.tiny import clip as tiny_clip

N = 30
AIM = Aim(visual="hf-image", to="voice", name="seen", splits=("unlabeled",), device="cpu")
HEAD = AlignSettings(epochs=6, lr=1e-2, batch_size=16)
WEAK = AlignSettings(epochs=1, lr=1e-9, loss="mse", dropout=0.0)  # leaves all to the encoder
ALONE = EncoderSettings(epochs=8, patience=8, rank=2, batch_size=8, lr=3e-2, head_lr=1e-12, layers="3-4")
HOW = EncoderSettings(epochs=2, rank=2, batch_size=8, lr=1e-3, head_lr=1e-3, layers="3-4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny CLIP and a store of 30 clips of films, with voices that fit them."""
    folder = tmp_path_factory.mktemp("made")
    tiny_clip(folder / "clip")
    films = [clip.video for clip in sample_clips(folder, "video")]
    random = np.random.default_rng(0)
    store = Store.create(folder / "store")
    split = ["train" if i % 5 == 4 else "unlabeled" for i in range(N)]
    store.clips.add(
        Clip(key=f"c{i:02d}", split=s, speaker=f"{s}{i % 6}", video=films[i % len(films)])
        for i, s in enumerate(split)
    )
    voices = random.normal(size=(len(films), 6)) * 3 + 5
    spec = SpaceSpec(name="voice-UTT", modality="audio", level="utt", row_shape=(6,), made_by={"plugin": "v"})
    with store.features.writer(spec) as writer:
        for i in range(N):
            writer.add(f"c{i:02d}", voices[i % len(films)] + random.normal(size=6))
    store.labels.add(
        LabelLayer.human("gold", ("a", "b"), {f"c{i:02d}": "ab"[i // 5 % 2] for i in range(4, N, 5)})
    )
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """Return a copy to write to."""
    return Store.open(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.fixture
def options(made: Path) -> Options:
    """Return what the extractor is told."""
    return Options(model=str(made / "clip"), device="cpu", extra={"face": "none"})


def rows(store: Store, space: str) -> Any:
    """Return all rows of a space, by key."""
    return store.features[space].matrix(sorted(store.features[space].keys()))


def request(options: Options, **more: Any) -> Request:
    """Return a request for utterances of the tiny CLIP."""
    return Request(plugin="hf-image", options=options, **more)


def test_extraction_gives_what_was_trained(store: Store, options: Options, tmp_path: Path) -> None:
    """The adapter has LoRA in the chosen blocks and a projection; extraction gives the aligned rows."""
    seen: dict[str, Any] = {}
    from mer_zoo.alignment import encoding

    whole = encoding._keep

    def keep(*given: Any) -> None:
        _, _, pairs, tunable, fitted, views, _ = given
        from mer_zoo.alignment.head import folded

        head = folded(fitted.head, views.visual.standard, views.acoustic.standard, fitted.length)
        assert len(tunable.trainable()) == 2 * 4 * 2  # two blocks, q k v out, A and B
        media = tunable.extractor.prepare(store.clips[pairs.held[0]])
        with torch.inference_mode():
            inner = tunable.rows([media])[0].numpy()
        seen[pairs.held[0]] = head(pool_rows("mean", inner)[None])[0]
        whole(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_keep", keep)
        found = align_encoder(store, AIM, WEAK, ALONE, options, work=tmp_path / "work")
    history = store.runs[found.record].json("history.json")
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert found.metrics["best_epoch"] > 0
    tensors = load(store.adapters["seen"].read("adapter_model.safetensors"))
    assert all(float(np.abs(t).max()) > 1e-3 for name, t in tensors.items() if "lora_B" in name)
    assert found.metrics["encoder"]["trained"] < found.metrics["encoder"]["parameters"] / 10
    assert {"aligned", "head alone", "random", "pca"} == set(found.metrics["retrieval"])
    card = find(store, "seen").card
    assert (card["type"], card["projection"], card["layers"]) == ("LORA", [24, 6], [2, 3])
    assert card["training"] is None
    assert card["alignment"]["aligned_to"] == "voice-UTT"
    assert "features/voice-UTT" in store.adapters["seen"].parents
    extract(store, plan(store, request(options, adapter="seen", name="seen")))
    extract(store, plan(store, request(options, name="base")))
    space = store.features["seen-UTT"]
    assert space.spec.row_shape == (6,)
    assert space.spec.parents == ("adapters/seen",)
    for key, expected in seen.items():
        np.testing.assert_allclose(space.matrix([key])[0], expected, atol=1e-4)
    assert not (tmp_path / "work").exists()


def test_interrupted_and_resumed(store: Store, options: Options, made: Path, tmp_path: Path) -> None:
    """Killed after an epoch, the same call goes on there, and ends with the weights of an undisturbed one."""
    twin = Store.open(shutil.copytree(made / "store", tmp_path / "twin"))
    how = replace(HOW, epochs=3, patience=3)
    align_encoder(twin, AIM, HEAD, how, options, work=tmp_path / "other")
    epochs: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        if what == "aligning":
            epochs.append(done)
            if len(epochs) == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align_encoder(store, AIM, HEAD, how, options, work=tmp_path / "work", told=kill)
    assert not len(store.adapters)
    with pytest.raises(ZooError, match=r"begun otherwise.*--restart"):
        align_encoder(store, AIM, HEAD, replace(how, rank=3), options, work=tmp_path / "work")
    align_encoder(store, AIM, HEAD, how, options, work=tmp_path / "work", told=kill)
    assert epochs == [1, 2, 3]
    for file in ("adapter_model.safetensors", "projection.safetensors"):
        assert store.adapters["seen"].read(file) == twin.adapters["seen"].read(file)


@pytest.mark.parametrize("method", ["bottleneck", "last"])
def test_other_methods(store: Store, options: Options, tmp_path: Path, method: str) -> None:
    """Bottlenecks and whole blocks are kept with a projection too, and extract."""
    how = replace(HOW, method=method, epochs=1, bottleneck=4)
    align_encoder(store, AIM, replace(HEAD, loss="cosine"), how, options, work=tmp_path / "work")
    extract(store, plan(store, request(options, adapter="seen", name="seen")))
    assert rows(store, "seen-UTT").shape == (N, 6)


def test_probed_by_labels(store: Store, options: Options, tmp_path: Path) -> None:
    """With labels, base and aligned rows of the labelled clips are extracted and probed, on record."""
    found = align_encoder(
        store, replace(AIM, labels="gold"), HEAD, replace(HOW, epochs=1), options, work=tmp_path / "w"
    )
    assert found.metrics["probe"]["spaces"] == ["hf-image-UTT", "seen-UTT"]
    assert len(store.features["seen-UTT"]) == N // 5
    assert store.runs[found.record].json("metrics.json")["probe"] == found.metrics["probe"]


def test_broken_media_are_left_out(store: Store, options: Options, tmp_path: Path) -> None:
    """A clip that cannot be decoded is told of, and aligns nothing."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    clip = store.clips["c00"]
    store.clips.add([replace(clip, video=str(broken), content_hash="")], update=True)
    found = align_encoder(store, AIM, HEAD, replace(HOW, epochs=1), options, work=tmp_path / "work")
    assert any("cannot be read, e.g. c00" in notice for notice in found.notices)
    assert "c00" not in store.adapters["seen"].json("card.json")["alignment"]["keys"]
    assert sum(found.metrics["clips"].values()) == N - N // 5 - 1


@pytest.mark.parametrize(
    ("aim", "how", "error", "told"),
    [
        ({"visual": "face-pixels"}, {}, ZooError, "no base encoder that can be adapted"),
        ({"visual": "clip-vit-large-lora"}, {}, ZooError, "no base encoder that can be adapted"),
        ({}, {"layers": "9"}, PluginError, "give layers 1 to"),
        ({}, {"layers": "x"}, ZooError, "cannot read the layers"),
        ({}, {"layers": "best"}, ZooError, "mer-zoo probe-layers"),
        ({"to": "nobody"}, {}, UnknownName, "no feature space named 'nobody'"),
        ({}, {"lr": 1e30, "method": "last"}, Diverged, "lower --encoder-lr"),
    ],
)
def test_what_cannot_be_adapted(
    store: Store, options: Options, tmp_path: Path, aim: Any, how: Any, error: Any, told: str
) -> None:
    """What cannot work is refused, and nothing is kept."""
    with pytest.raises(error, match=told):
        align_encoder(store, replace(AIM, **aim), HEAD, replace(HOW, **how), options, work=tmp_path / "work")
    assert not len(store.adapters)


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("length", [1, 5])
def test_pooling_as_extraction_does(how: str, length: int) -> None:
    """Rows are pooled while training as they are in extraction."""
    values = np.random.default_rng(0).normal(size=(length, 4)).astype(np.float32)
    np.testing.assert_allclose(
        pooled(torch.from_numpy(values), how).numpy(), pool_rows(how, values), rtol=1e-5
    )


def test_settings() -> None:
    """Settings out of range are refused."""
    wrong: tuple[dict[str, Any], ...] = (
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"head_lr": float("nan")},
    )
    for changes in wrong:
        with pytest.raises(ZooError):
            EncoderSettings(**changes)
    assert EncoderSettings(targets=("q_proj",)).to_json()["targets"] == ["q_proj"]
