"""Adapters made by the real peft on tiny checkpoints: into the store, the model and the fingerprint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import Damaged, MerError, NameTaken, UnknownName
from mer_featurestore.lineage import ancestors
from mer_plugins import adapters
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import voice, write_wav

# peft asks transformers for something under a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
QV = ["q_proj", "v_proj"]
Train = Callable[..., Path]


@pytest.fixture
def train(base: Callable[[str], Path], tmp_path: Path) -> Train:
    """Return a maker of adapters: peft's own, with weights that matter, saved as peft saves."""

    def adapter(
        name: str, architecture: str, config: peft.PeftConfig | None = None, to: str = "adapter"
    ) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            net = getattr(transformers, architecture).from_pretrained(base(name))
            tuned = peft.get_peft_model(net, config or peft.LoraConfig(r=4, target_modules=QV))
            for weight in tuned.parameters():
                if weight.requires_grad:
                    weight.data += torch.randn(weight.shape) * 0.2
            tuned.save_pretrained(tmp_path / to)
        return tmp_path / to

    return adapter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of three voices, two of them labelled."""
    store = Store.create(tmp_path / "store")
    clips = [
        Clip(
            key=f"k{k}",
            text="so happy today",
            audio=str(write_wav(tmp_path / f"{k}.wav", voice(0.3 + k / 5))),
        )
        for k in range(3)
    ]
    store.clips.add(clips)
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), {"k0": "sad", "k1": "happy"}))
    return store


def rows(card: str, model: Path, adapter: Path | None, clip: Clip, **extra: str) -> Any:
    """Return what an extractor gives for a clip."""
    found = adapters.read_folder(adapter) if adapter else None
    options = Options(model=str(model), adapter=found, layers="all", device="cpu", extra=extra)
    extractor = make_extractor(find_extractor(card), options)
    extractor.load()
    return extractor.encode([extractor.prepare(clip)])[0]


CONFIGS = {
    "lora": peft.LoraConfig(r=4, target_modules=QV, lora_alpha=12),
    "some layers": peft.LoraConfig(
        r=4, target_modules=QV, layers_to_transform=[2, 3], layers_pattern="layers"
    ),
    "patterns": peft.LoraConfig(
        r=4, target_modules=QV, rank_pattern={"layers.1.attention.q_proj": 2}, alpha_pattern={"v_proj": 32}
    ),
    "expression": peft.LoraConfig(r=4, target_modules=r".*attention\.(q|v)_proj"),
    "dora": peft.LoraConfig(r=4, target_modules=QV, use_dora=True, use_rslora=True),
    "loha": peft.LoHaConfig(r=4, target_modules=QV),
    "ia3": peft.IA3Config(target_modules=["k_proj", "output_dense"], feedforward_modules=["output_dense"]),
    "norms too": peft.LoraConfig(r=4, target_modules=QV, modules_to_save=["final_layer_norm"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_is_as_unmerged(kind: str, base: Callable, train: Train, store: Store) -> None:
    """Merged weights give the hidden states of peft's own model with the adapter beside them."""
    folder = train("hubert-large", "HubertModel", CONFIGS[kind])
    clip = store.clips["k1"]
    merged = rows("hf-audio", base("hubert-large"), folder, clip)
    net = transformers.HubertModel.from_pretrained(base("hubert-large"))
    beside = peft.PeftModel.from_pretrained(net, folder).eval()
    extractor = make_extractor(find_extractor("hf-audio"), Options(model=str(base("hubert-large"))))
    wave = torch.from_numpy(extractor.prepare(clip))[None]
    with torch.inference_mode():
        states = beside(input_values=wave, output_hidden_states=True).hidden_states
    expected = torch.stack([state[0] for state in states], dim=1).numpy()
    assert np.abs(merged - expected).max() <= 1e-5 * np.abs(expected).max()
    plain = rows("hf-audio", base("hubert-large"), None, clip)
    assert np.abs(merged - plain).max() > 1e-2 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("name", "whole", "encoder"),
    [
        ("hubert-large", "HubertForSequenceClassification", "HubertModel"),
        ("llama2-7b", "LlamaForCausalLM", "LlamaModel"),
        ("roberta-large", "RobertaForSequenceClassification", "RobertaModel"),
    ],
)
def test_trained_with_a_head(
    name: str, whole: str, encoder: str, base: Callable, train: Train, store: Store
) -> None:
    """An adapter trained on the model with a head fits the encoder alone: the head is left out."""
    targets = ["query", "value"] if "roberta" in name else QV
    task = {"task_type": "SEQ_CLS"} if "Sequence" in whole else {}
    folder = train(name, whole, peft.LoraConfig(r=4, target_modules=targets, **task), to="whole")
    ours = rows(name, base(name), folder, store.clips["k0"])
    net = getattr(transformers, whole).from_pretrained(base(name))
    part = peft.PeftModel.from_pretrained(net, folder).merge_and_unload().base_model
    part.save_pretrained(folder.parent / "merged")
    for file in base(name).glob("*.json"):
        if not (folder.parent / "merged" / file.name).exists():
            (folder.parent / "merged" / file.name).write_bytes(file.read_bytes())
    assert type(part).__name__ == encoder
    theirs = rows(name, folder.parent / "merged", None, store.clips["k0"])
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_hubert_large_lora_as_typed(base: Callable, train: Train, store: Store) -> None:
    """`--plugin hubert-large-lora` takes the store's adapter of that name; lineage reaches its labels."""
    folder = train("hubert-large", "HubertModel")
    adapters.add(store, folder, "hubert-large-lora", labels="gold")
    options = Options(model=str(base("hubert-large")), device="cpu")
    planned = plan(store, Request(plugin="hubert-large-lora", options=options, levels=("utt", "frame")))
    assert extract(store, planned).done == 3
    space = store.features["hubert-large-lora-UTT"]
    assert space.spec.parents == ("adapters/hubert-large-lora",)
    assert ancestors(store.snapshot, "features/hubert-large-lora-UTT") >= {"labels/gold"}
    made = space.spec.made_by["adapter"]
    assert made == adapters.read_folder(folder).made_by
    assert made["type"] == "LORA"
    extract(store, plan(store, Request(plugin="hubert-large", options=options)))
    assert not np.allclose(space["k0"], store.features["hubert-large-UTT"]["k0"], rtol=1e-2)


def test_adapter_by_path_or_name(base: Callable, train: Train, store: Store) -> None:
    """`--adapter` takes a folder or a name; both are the same fingerprint, only one has a parent."""
    folder = train("hubert-large", "HubertModel")
    adapters.add(store, folder, "mine")
    options = Options(model=str(base("hubert-large")), device="cpu")
    by_path = plan(store, Request(plugin="hf-audio", options=options, adapter=str(folder))).specs[0]
    by_name = plan(store, Request(plugin="hf-audio", options=options, adapter="mine")).specs[0]
    assert by_path.fingerprint == by_name.fingerprint
    assert (by_path.parents, by_name.parents) == ((), ("adapters/mine",))
    assert (
        plan(store, Request(plugin="hf-audio", options=options)).specs[0].fingerprint != by_path.fingerprint
    )


@pytest.mark.parametrize(
    ("card", "name", "architecture", "targets"),
    [
        ("clip-vit-large-lora", "clip-vit-large", "CLIPModel", QV),
        ("baichuan-13b-lora", "baichuan-13b", "", ["W_pack"]),
        ("chinese-hubert-large-lora", "hubert-large", "HubertModel", QV),
    ],
)
def test_named_cards(
    card: str, name: str, architecture: str, targets: list[str], base: Callable, tmp_path: Path
) -> None:
    """Each named card loads its base with the adapter, and the weights it targets are changed."""
    if architecture:
        net = getattr(transformers, architecture).from_pretrained(base(name))
    else:
        from mer_plugins.text.baichuan_net import BaichuanForCausalLM

        net = BaichuanForCausalLM.from_pretrained(base(name))
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "a")
    found = find_extractor(card)
    assert found.adapter == card
    weights = []
    for options in (Options(adapter=adapters.read_folder(tmp_path / "a")), None):
        given = {"model": str(base(name)), "device": "cpu"}
        plain = find_extractor(card.removesuffix("-lora"))
        extractor = (
            make_extractor(found, Options(adapter=options.adapter, **given))
            if options
            else make_extractor(plain, Options(**given))
        )
        extractor.load()
        weights.append(
            {
                k: w.clone()
                for k, w in extractor.net.named_parameters()
                if k.endswith((".q_proj.weight", "W_pack.weight"))
            }
        )
        assert not any("lora" in key for key in extractor.net.state_dict())
    assert len(weights[0]) == len(weights[1]) == 5
    assert all(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_whisper_encoder_only(tmp_path: Path) -> None:
    """An adapter of all of Whisper changes its encoder; the decoder's part is left out, not mixed up."""
    from support.checkpoints import whisper

    model = whisper(tmp_path / "whisper")
    net = transformers.WhisperForConditionalGeneration.from_pretrained(model)
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=QV, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "a")
    merged = tuned.merge_and_unload()
    options = Options(model=str(model), adapter=adapters.read_folder(tmp_path / "a"), device="cpu")
    extractor = make_extractor(find_extractor("whisper"), options)
    extractor.load()
    ours = extractor.net.layers[0].self_attn.q_proj.weight
    assert torch.allclose(ours, merged.model.encoder.layers[0].self_attn.q_proj.weight, atol=1e-6)
    assert not torch.allclose(ours, merged.model.decoder.layers[0].self_attn.q_proj.weight, atol=1e-3)


def test_the_card_says_what_is_known(base: Callable, train: Train, store: Store) -> None:
    """The card has the base's weight hash, blocks, targets, rank, and the clips whose labels it has seen."""
    folder = train("hubert-large", "HubertModel", CONFIGS["some layers"])
    bundle = adapters.add(store, folder, "a", labels="gold")
    card = bundle.json("card.json")
    assert (
        card["base"]["weights_sha256"]
        == adapters.locate(str(base("hubert-large"))).made_by()["weights_sha256"]
    )
    assert (card["type"], card["rank"], card["layers"], card["targets"]) == ("LORA", 4, [2, 3], QV)
    assert card["parameters"] == 2 * 2 * 4 * (32 + 32)
    assert card["training"] == {"labels": "gold", "keys": ["k0", "k1"], "folds": None}
    assert bundle.parents == ("labels/gold",)
    assert adapters.of_bundle(bundle).made_by == adapters.read_folder(folder).made_by


def test_labels_behind_a_folder_are_not_known(base: Callable, train: Train, store: Store) -> None:
    """An adapter used from its folder is no parent of the features, and a notice says so; the store's is."""
    folder = train("hubert-large", "HubertModel")
    adapters.add(store, folder, "a", labels="gold")
    options = Options(model=str(base("hubert-large")))
    loose, kept = (
        plan(store, Request(plugin="hubert-large", options=options, adapter=which))
        for which in (str(folder), "a")
    )
    assert f"mer-fs adapters add {folder} --as NAME --labels LAYER" in loose.notices[0]
    assert (len(loose.notices), kept.notices) == (1, ())
    assert (loose.specs[0].parents, kept.specs[0].parents) == ((), ("adapters/a",))
    assert loose.specs[0].fingerprint == kept.specs[0].fingerprint


def test_export_is_what_was_added(train: Train, store: Store, tmp_path: Path) -> None:
    """An exported adapter is the same adapter, and overwrites nothing."""
    folder = train("hubert-large", "HubertModel")
    adapters.add(store, folder, "a")
    adapters.export(store, "a", tmp_path / "out")
    assert adapters.read_folder(tmp_path / "out").made_by == adapters.read_folder(folder).made_by
    peft.PeftConfig.from_pretrained(tmp_path / "out")
    with pytest.raises(PluginError, match="already"):
        adapters.export(store, "a", tmp_path / "out")


def test_no_adapter_there(base: Callable, store: Store) -> None:
    """Without an adapter the error says how to make one, and where to put it."""
    options = Options(model=str(base("hubert-large")))
    with pytest.raises(
        UnknownName, match=r"the store has none; train one: mer-zoo tune .*adapters add FOLDER --as"
    ):
        plan(store, Request(plugin="hubert-large-lora", options=options))
    with pytest.raises(PluginError, match="say --adapter PATH_OR_NAME"):
        make_extractor(find_extractor("hubert-large-lora"), options)
    with pytest.raises(PluginError, match="prosody takes no adapter"):
        plan(store, Request(plugin="prosody", adapter="x"))


def test_wrong_base(base: Callable, train: Train, store: Store, tmp_path: Path) -> None:
    """Other weights, another architecture and another width are refused, each with its reason."""
    folder = train("hubert-large", "HubertModel")
    with pytest.raises(PluginError, match=r"was trained on hubert-large \(weights .*has other weights"):
        rows("hubert-base", base("hubert-base"), folder, store.clips["k0"])
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "facebook/hubert-large-ll60k"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        PluginError, match=r"does not fit this RobertaModel: it changes .*which are not there"
    ):
        rows("roberta-large", base("roberta-large"), folder, store.clips["k0"])
    from support.tiny import speech

    (tmp_path / "wide").mkdir()
    speech("Hubert", norm="layer", hidden_size=48)(tmp_path / "wide")
    with pytest.raises(PluginError, match="does not fit this HubertModel: size mismatch"):
        rows("hubert-large", tmp_path / "wide", folder, store.clips["k0"])
    (tmp_path / "short").mkdir()
    speech("Hubert", norm="layer", num_hidden_layers=4)(tmp_path / "short")
    with pytest.raises(PluginError, match=r"changes encoder\.layers\.4\.attention"):
        rows("hubert-large", tmp_path / "short", folder, store.clips["k0"])


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


SPOIL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "kind": (lambda f: _edit(f, peft_type="PROMPT_TUNING"), "cannot be used here"),
    "bias": (lambda f: _edit(f, bias="all"), "trains biases"),
    "pickled": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "only a pickled one, which could run code",
    ),
    "cut off": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 40), "no whole safetensors"),
    "other kind": (lambda f: _edit(f, peft_type="LOHA"), "has no LOHA tensors"),
}


@pytest.mark.parametrize("fault", SPOIL)
def test_what_is_no_adapter(fault: str, train: Train, store: Store) -> None:
    """A folder that is no usable adapter is refused when added, and nothing is stored."""
    folder = train("hubert-large", "HubertModel")
    spoil, message = SPOIL[fault]
    spoil(folder)
    with pytest.raises(PluginError, match=message):
        adapters.add(store, folder, "a")
    assert not store.adapters


def test_names_labels_and_damage(train: Train, store: Store) -> None:
    """A taken name, an unknown layer and a damaged file are errors."""
    folder = train("hubert-large", "HubertModel")
    with pytest.raises(MerError, match="gold"):
        adapters.add(store, folder, "a", labels="golf")
    bundle = adapters.add(store, folder, "a")
    with pytest.raises(NameTaken):
        adapters.add(store, folder, "a")
    bundle.path("adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(Damaged):
        adapters.find(store, "a")
