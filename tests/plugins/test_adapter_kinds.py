"""Adapters that peft does not make: bottlenecks, replaced tensors, projections; what is refused, and why."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mer_featurestore import Clip, LabelLayer, Store
from mer_plugins import adapters
from mer_plugins.checkpoints import locate
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import voice, write_wav
from support import adapting
from support.tiny import MAKERS, speech

# peft asks transformers for something under a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny HuBERT-large."""
    folder = tmp_path_factory.mktemp("base")
    MAKERS["hubert-large"](folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of two labelled voices."""
    store = Store.create(tmp_path / "store")
    waves = [str(write_wav(tmp_path / f"{k}.wav", voice(0.3 + k / 5))) for k in range(2)]
    store.clips.add(Clip(key=f"k{k}", audio=wave) for k, wave in enumerate(waves))
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), {"k0": "sad", "k1": "happy"}))
    return store


def extractor(model: Path, adapter: Path | None, **options: Any) -> Any:
    """Return a loaded extractor with the adapter of a folder."""
    found = adapters.read_folder(adapter) if adapter else None
    options = {"layers": "all", "device": "cpu"} | options
    made = make_extractor(find_extractor("hf-audio"), Options(model=str(model), adapter=found, **options))
    made.load()
    return made


def rows(model: Path, adapter: Path | None, clip: Clip, **options: Any) -> Any:
    """Return what an extractor gives for a clip."""
    made = extractor(model, adapter, **options)
    return made.encode([made.prepare(clip)])[0]


def test_bottleneck(base: Path, store: Store, tmp_path: Path) -> None:
    """A kept bottleneck acts behind its block and no earlier, as its numbers say; the card tells of it."""
    folder = adapting.bottlenecks(tmp_path / "a", base, adapting.mark(3, 5))
    bundle = adapters.add(store, folder, "narrow", labels="gold")
    clip = store.clips["k0"]
    plain = rows(base, None, clip)
    found = rows(base, bundle.path("card.json").parent, clip)
    assert np.array_equal(found[:, :3], plain[:, :3])
    change = found[:, 3] - plain[:, 3]
    assert np.allclose(change[:, [3, 5]], adapting.MARK, rtol=1e-5)
    assert not np.delete(change, [3, 5], axis=1).any()
    assert not np.allclose(found[:, 4], plain[:, 4], rtol=1e-2)
    card = bundle.json("card.json")
    assert (card["type"], card["layers"], card["rank"]) == ("BOTTLENECK", [2], 4)
    assert card["parameters"] == 2 * 4 * 32 + 4 + 32
    assert card["base"]["weights_sha256"] == locate(str(base)).made_by()["weights_sha256"]


def test_bottleneck_of_zeros(base: Path, store: Store, tmp_path: Path) -> None:
    """One whose way up is zero changes no bit of any layer, but it is another fingerprint."""
    folder = adapting.bottlenecks(tmp_path / "a", base, adapting.mark())
    clip = store.clips["k1"]
    assert np.array_equal(rows(base, folder, clip), rows(base, None, clip))
    assert extractor(base, folder).made_by() != extractor(base, None).made_by()


@pytest.mark.parametrize("whole", ["HubertModel", "HubertForSequenceClassification"])
def test_replaced_tensors(whole: str, base: Path, store: Store, tmp_path: Path) -> None:
    """WEIGHTS give the very features of the whole checkpoint tuned; a head beside the encoder is left out."""
    net = getattr(transformers, whole).from_pretrained(base)
    encoder = getattr(net, "hubert", net)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name.startswith("encoder.layers.4."):
                weight.mul_(1.3).add_(0.05)
    encoder.save_pretrained(tmp_path / "tuned")
    for file in base.glob("pre*.json"):
        (tmp_path / "tuned" / file.name).write_bytes(file.read_bytes())
    changed = {k: w for k, w in net.state_dict().items() if ".layers.4." in k or k.startswith("classifier")}
    adapters.write_config(tmp_path / "a", peft_type="WEIGHTS", base=locate(str(base)))
    save_file(changed, tmp_path / "a" / "adapter_model.safetensors")
    clip = store.clips["k0"]
    assert np.array_equal(rows(base, tmp_path / "a", clip), rows(tmp_path / "tuned", None, clip))
    card = adapters.describe(tmp_path / "a")
    assert (card["type"], card["layers"]) == ("WEIGHTS", [4])
    assert {"q_proj", "final_layer_norm"} <= set(card["targets"])


def gelu(x: Any) -> Any:
    """Return x times the normal distribution function of x, in float64."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize("beside", [False, True])
def test_projection(hidden: int, beside: bool, base: Path, store: Store, tmp_path: Path) -> None:
    """Alone or beside an adapter, a projection maps every frame, and the pooled row for the utterance."""
    clip = store.clips["k0"]
    if beside:
        adapting.bottlenecks(tmp_path / "a", base, adapting.mark(1))
        adapting.bottlenecks(tmp_path / "alone", base, adapting.mark(1))
    head = adapting.projection(tmp_path / "a", 32, 5, hidden=hidden)
    adapters.add(store, tmp_path / "a", "aligned", base=str(base))
    options = Options(model=str(base), device="cpu")
    request = Request(
        plugin="hf-audio",
        options=options,
        adapter="aligned",
        levels=("utt", "frame"),
        dtype="float32",
        name="x",
    )
    planned = plan(store, request)
    assert [spec.row_shape for spec in planned.specs] == [(5,), (5,)]
    extract(store, planned)
    raw = rows(base, tmp_path / "alone" if beside else None, clip, layers=None).astype(np.float64)

    def expected(x: Any) -> Any:
        first = x @ head["weight"].T + head["bias"]
        return gelu(first) @ head["weight2"].T + head["bias2"] if hidden else first

    for space, wanted in (("x-FRA", expected(raw)), ("x-UTT", expected(raw.mean(axis=0))[None])):
        found = store.features[space].read(["k0"]).data
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    card = store.adapters["aligned"].json("card.json")
    assert card["projection"] == [32, 5]
    assert card["type"] == ("BOTTLENECK" if beside else "PROJECTION")
    assert "projection_sha256" in planned.specs[0].made_by["adapter"]


def test_projection_needs_its_rows(base: Path, tmp_path: Path) -> None:
    """Another width, a layer axis or a pooling that changes the width is refused with the remedy."""
    adapting.projection(tmp_path / "a", 31, 5)
    with pytest.raises(PluginError, match=r"takes rows of 31 numbers, and these are 32; .*--layers"):
        extractor(base, tmp_path / "a", layers="last")
    adapting.projection(tmp_path / "b", 32, 5)
    with pytest.raises(PluginError, match="these are 6 x 32"):
        extractor(base, tmp_path / "b")
    wide = extractor(base, tmp_path / "b", layers="last", extra={"pool": "mean-std"})
    assert wide.frame_shape == (5,)
    with pytest.raises(PluginError, match="these are 64"):
        _ = wide.utt_shape


@pytest.mark.parametrize("kind", ["bottleneck", "lora", "projection"])
def test_round_trip(kind: str, base: Path, store: Store, tmp_path: Path) -> None:
    """What was kept with facts, exported and added elsewhere is the same adapter with the same facts."""
    folder = tmp_path / "a"
    if kind == "lora":
        net = transformers.HubertModel.from_pretrained(base)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        peft.get_peft_model(net, config).save_pretrained(folder)
    elif kind == "bottleneck":
        adapting.bottlenecks(folder, base, adapting.mark(1))
    else:
        adapting.projection(folder, 32, 5)
    source = locate(str(base))
    training = None if kind == "projection" else {"labels": "gold", "keys": ["k0"], "validated": ["k1"]}
    made = {"metrics": {"UAR": 0.5}, "made_with": {"seed": 1}}
    bundle = adapters.keep(
        store, "kept", folder, base=source, training=training, facts=made, extra={"curve.txt": b"1 2"}
    )
    assert bundle.parents == (("labels/gold",) if training else ())
    adapters.export(store, "kept", tmp_path / "out")
    other = Store.create(tmp_path / "other")
    again = adapters.add(other, tmp_path / "out", "again")
    card = bundle.json("card.json")
    assert again.json("card.json") == card
    assert card["metrics"] == {"UAR": 0.5}
    assert card["base"]["weights_sha256"] == source.made_by()["weights_sha256"]
    assert adapters.of_bundle(again).made_by == adapters.of_bundle(bundle).made_by
    assert (tmp_path / "out" / "curve.txt").read_bytes() == b"1 2"


def test_keep_says_what_it_stands_on(base: Path, store: Store, tmp_path: Path) -> None:
    """The space an adapter was aligned to is a parent; facts and files cannot take the card's own names."""
    folder = tmp_path / "a"
    adapting.projection(folder, 32, 5)
    options = Options(model=str(base), device="cpu")
    extract(store, plan(store, Request(plugin="hf-audio", options=options, name="sound")))
    aligned = {"aligned_to": "sound-UTT", "keys": ["k0"]}
    bundle = adapters.keep(store, "x", folder, base=locate(str(base)), alignment=aligned)
    assert bundle.parents == ("features/sound-UTT",)
    assert bundle.json("card.json")["alignment"] == aligned
    for wrong, message in (
        ({"facts": {"base": 1}}, "names of the card's own: base"),
        ({"facts": {"loss": math.nan}}, "no JSON"),
        ({"extra": {"card.json": b""}}, "names of the adapter's own: card.json"),
    ):
        with pytest.raises(PluginError, match=message):
            adapters.keep(store, "y", folder, **wrong)


def spoiled(kind: str, base: Path, folder: Path) -> Path:
    """Write an adapter with something wrong with it."""
    weights = folder / "adapter_model.safetensors"
    adapting.bottlenecks(folder, base, adapting.mark(1))
    tensors = load_file(weights)
    config = json.loads((folder / "adapter_config.json").read_text())
    if kind == "a tensor short":
        save_file({k: v for k, v in tensors.items() if "up.bias" not in k}, weights)
    elif kind == "a tensor too many":
        save_file(tensors | {"head.weight": torch.ones(1)}, weights)
    elif kind == "no width":
        (folder / "adapter_config.json").write_text(json.dumps(config | {"bottleneck": None}))
    elif kind == "no weights":
        weights.unlink()
    elif kind == "projection of other shapes":
        adapting.projection(folder, 32, 5)
        file = folder / "projection.safetensors"
        save_file(load_file(file) | {"bias": torch.ones(4)}, file)
    elif kind == "projection of other names":
        save_file({"kernel": torch.ones(2, 2)}, folder / "projection.safetensors")
    elif kind == "projection cut off":
        (folder / "projection.safetensors").write_bytes(b"x" * 30)
    elif kind == "a later card":
        (folder / "card.json").write_text(json.dumps({"format": 2}))
    elif kind == "a card that is wrong":
        (folder / "card.json").write_text(json.dumps({"training": {"labels": "gold", "keys": "k0"}}))
    return folder


FAULTS = {
    "a tensor short": r"has no blocks.2.up.bias; is it whole",
    "a tensor too many": "tensors of no bottleneck: head.weight",
    "no width": 'it needs "bottleneck": SIZE',
    "no weights": "has no adapter_model.safetensors",
    "projection of other shapes": r"do not fit together: bias \[4\], weight \[5, 32\]",
    "projection of other names": "has the tensors kernel",
    "projection cut off": "no whole safetensors",
    "a later card": "of format 2, this release reads 1",
    "a card that is wrong": "does not say properly",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_refused_when_added(kind: str, base: Path, store: Store, tmp_path: Path) -> None:
    """A folder that is no whole adapter is refused, with what is wrong and where, and nothing is stored."""
    with pytest.raises(PluginError, match=FAULTS[kind]):
        adapters.add(store, spoiled(kind, base, tmp_path / "a"), "x")
    assert not store.adapters


def test_of_another_model(base: Path, tmp_path: Path) -> None:
    """Fewer blocks, another width, unknown tensors: refused with what does not fit and what to give."""
    (tmp_path / "wide").mkdir()
    speech("Hubert", norm="layer", hidden_size=48)(tmp_path / "wide")
    narrow = adapting.bottlenecks(tmp_path / "a", tmp_path / "wide", adapting.mark(1))
    with pytest.raises(
        PluginError, match=r"a, trained on wide, .*: the bottlenecks' weights do not fit.*--model"
    ):
        extractor(tmp_path / "wide", narrow)
    far = adapting.bottlenecks(tmp_path / "b", base, adapting.mark(1, block=9), block=9)
    with pytest.raises(PluginError, match=r"5 blocks \(encoder.layers\) and no block 9.*--model"):
        extractor(base, far)
    source = locate(str(base))
    for tensor, message in (
        (
            {"encoder.layers.4.attention.q_proj.weight": torch.ones(2, 2)},
            r"size mismatch for .*\[2, 2\] and \[32, 32\]",
        ),
        (
            {"encoder.layers.7.attention.q_proj.weight": torch.ones(2, 2)},
            r"it replaces encoder.layers.7.*not there",
        ),
    ):
        adapters.write_config(tmp_path / "c", peft_type="WEIGHTS", base=source)
        save_file(tensor, tmp_path / "c" / "adapter_model.safetensors")
        with pytest.raises(PluginError, match=message):
            extractor(base, tmp_path / "c")


def test_told_twice_or_for_nothing(base: Path, store: Store, tmp_path: Path) -> None:
    """Labels said twice, and an adapter without folds told of others, are refused."""
    folder = adapting.bottlenecks(tmp_path / "a", base, adapting.mark(1))
    (folder / "card.json").write_text(json.dumps({"training": {"labels": "gold", "keys": ["k0"]}}))
    with pytest.raises(PluginError, match="says already that it was trained on labels 'gold'"):
        adapters.add(store, folder, "x", labels="gold")
    assert adapters.add(store, folder, "x").parents == ("labels/gold",)
    with pytest.raises(PluginError, match="has no folds: all clips get the same weights"):
        extractor(base, folder, others="mean")
    with pytest.raises(PluginError, match="no folds that others could be outside of"):
        extractor(base, None, others="mean")
