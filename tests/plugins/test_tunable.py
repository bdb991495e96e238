"""Encoders made trainable: what is trained, what is not, and that what was trained is what is extracted."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import nn

from mer_featurestore import Clip, Store
from mer_featurestore.errors import UnknownName
from mer_plugins import adapters
from mer_plugins.blocks import encoder_blocks
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.samples import sample_clips
from mer_plugins.tunable import Method, Tunable
from support.tiny import MAKERS

FAMILIES = [*MAKERS, "whisper"]
SOME = ["hubert-base", "whisper", "clip-vit-large", "baichuan-13b"]
CASES = [(name, "lora") for name in FAMILIES]
CASES += [(name, method) for name in SOME for method in ("dora", "bottleneck", "last", "full")]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for checkpoints and media."""
    return tmp_path_factory.mktemp("tunable")


@pytest.fixture(scope="module")
def clips(root: Path) -> dict[str, list[Clip]]:
    """Return clips of unequal lengths by modality."""
    return {m: sample_clips(root, m) for m in ("audio", "video", "text")}


@pytest.fixture(scope="module")
def make(base: Callable[[str], Path]) -> Make:
    """Return a maker of extractors on tiny checkpoints."""

    def extractor(name: str, layers: str | None = None, **extra: str) -> Any:
        return make_extractor(find_extractor(name), options_of(base(name), name, layers, **extra))

    return extractor


def options_of(folder: Path, name: str, layers: str | None = None, **extra: str) -> Options:
    """Return what an extractor of a tiny checkpoint is told."""
    video = {"face": "center"} if find_extractor(name).modality == "video" else {}
    return Options(model=str(folder), layers=layers, device="cpu", extra=video | extra)


def prepared(extractor: Any, clips: dict[str, list[Clip]]) -> list[Any]:
    """Return prepared inputs for a loaded extractor."""
    kind = "audio" if hasattr(extractor, "window") or extractor.kind == "whisper" else "text"
    return [extractor.prepare(clip) for clip in clips["video" if hasattr(extractor, "fps") else kind]]


def tune(tunable: Tunable, inputs: list[Any], steps: int = 3, rate: float = 3e-3) -> None:
    """Take a few steps towards rows of another size, on trimmed inputs."""
    chance = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(tunable.trainable().values(), lr=rate)
    tunable.net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        rows = tunable.rows([tunable.trimmed(one, chance) for one in inputs])
        loss = torch.stack([(one.mean(0) - 1).pow(2).mean() for one in rows]).sum()
        loss.backward()
        optimiser.step()
    tunable.net.eval()


def rows_of(tunable: Tunable, inputs: list[Any]) -> list[Any]:
    """Return the rows in memory, without gradients."""
    with torch.no_grad():
        return [rows.numpy() for rows in tunable.rows(inputs)]


def apart(a: Any, b: Any) -> float:
    """Return the largest difference relative to the largest value."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def chosen_layers(extractor: Any, method: str) -> tuple[int, ...] | None:
    """Return layers that leave some blocks alone."""
    return None if method == "full" else (2, extractor.deepest)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_adapter_changes_nothing_and_companions_do_not_matter(
    name: str, make: Make, clips: dict[str, list[Clip]]
) -> None:
    """Before training, rows are those of the base; with gradients, batched or alone, in train mode or not."""
    plain = make(name)
    plain.load()
    inputs = prepared(plain, clips)
    want = plain.encode(inputs)
    tunable = Tunable.attach(make(name), Method(dropout=0.0), seed=0)
    assert tunable.width == plain.row_shape[0]
    for rows in (tunable.rows(inputs), tunable.net.train() and tunable.rows(inputs)):
        assert all(one.requires_grad for one in rows)
        assert max(apart(one.detach(), other) for one, other in zip(rows, want, strict=True)) < 1e-5
    alone = [tunable.rows([one])[0].detach() for one in inputs]
    assert max(map(apart, alone, want)) < 1e-5


@pytest.mark.parametrize(("name", "method"), CASES)
def test_only_what_is_chosen_learns(name: str, method: str, make: Make, clips: dict[str, list[Clip]]) -> None:
    """After training steps the frozen weights have the same bits; all of what is chosen had gradients."""
    extractor = make(name)
    layers = chosen_layers(extractor, method)
    tunable = Tunable.attach(extractor, Method(name=method, layers=layers), seed=0)
    chosen = tunable.trainable()
    ids = {id(weight) for weight in chosen.values()}
    frozen = {n: (w, w.clone()) for n, w in extractor.net.named_parameters() if id(w) not in ids}
    assert {id(w) for w in tunable.net.parameters() if w.requires_grad} == ids
    before = {n: w.detach().clone() for n, w in chosen.items()}
    tune(tunable, prepared(extractor, clips))
    assert all(torch.equal(now, was) and now.grad is None for now, was in frozen.values())
    moved = {n for n, w in chosen.items() if not torch.equal(w, before[n])}
    if method != "full":  # which has weights that no row depends on, such as norms behind the last layer
        assert moved == set(chosen)
        where, _ = encoder_blocks(extractor.net)
        blocks = {f"{where}.{k - 1}." for k in layers or ()}
        behind = {f"bottlenecks.{k - 1}." for k in layers or ()}
        at = behind if method == "bottleneck" else blocks
        assert all(any(start in n for n in chosen) for start in at)
        assert all(n.startswith(tuple(at)) for n in chosen)
    assert len(moved) > 0.8 * len(chosen)


EXTRACT = """
import json, sys, warnings
from mer_featurestore import Store
from mer_plugins.contract import Options
from mer_plugins.pipeline import Request, extract, plan

store = Store.open(sys.argv[1])
for name, method, model, extra in json.loads(sys.argv[2]):
    options = Options(model=model, device="cpu", extra=extra)
    request = Request(plugin=name, adapter=f"{name}-{method}", name=f"{name}-{method}", options=options,
                      levels=("frame",), dtype="float32")
    extract(store, plan(store, request))
"""


@pytest.fixture(scope="module")
def extracted(
    root: Path, base: Callable[[str], Path], make: Make, clips: dict[str, list[Clip]]
) -> tuple[Store, dict[Any, Any]]:
    """Tune every case, keep the adapters in a store, extract in another process; return what memory has."""
    store = Store.create(root / "store")
    store.clips.add({clip.key: clip for part in clips.values() for clip in part}.values())
    memory, jobs = {}, []
    for name, method in CASES:
        extractor = make(name)
        layers = chosen_layers(extractor, method)
        tunable = Tunable.attach(extractor, Method(name=method, layers=layers, rank=4), seed=0)
        inputs = prepared(extractor, clips)
        untuned = rows_of(tunable, inputs)
        tune(tunable, inputs)
        memory[name, method] = (untuned, rows_of(tunable, inputs))
        folder = root / "adapters" / f"{name}-{method}"
        tunable.save(folder)
        adapters.add(store, folder, folder.name)
        model = base(name)
        jobs.append((name, method, str(model), dict(options_of(model, name).extra)))
    command = [sys.executable, "-c", EXTRACT, str(root / "store"), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Store.open(root / "store"), memory


@pytest.mark.parametrize(("name", "method"), CASES)
def test_what_was_trained_is_what_is_extracted(
    name: str, method: str, extracted: tuple[Store, dict[Any, Any]], clips: dict[str, list[Clip]]
) -> None:
    """From the store, in a fresh process, an adapter gives the rows it gave in memory, not the base's."""
    store, memory = extracted
    space = store.features[f"{name}-{method}-FRA"]
    untuned, tuned = memory[name, method]
    keys = [clip.key for clip in clips[find_extractor(name).modality]]
    for key, before, after in zip(keys, untuned, tuned, strict=True):
        assert apart(space[key], after) <= 1e-4
        assert apart(space[key], before) > 1e-3


def test_cards_tell_what_was_trained(extracted: tuple[Store, dict[Any, Any]]) -> None:
    """A card has the type, the base with its hash, the blocks from 0, and the number of parameters."""
    store, _ = extracted
    kinds = {"lora": "LORA", "dora": "LORA", "bottleneck": "BOTTLENECK", "last": "WEIGHTS", "full": "WEIGHTS"}
    for method, kind in kinds.items():
        card = store.adapters[f"hubert-base-{method}"].json("card.json")
        assert card["type"] == kind
        assert card["base"]["weights_sha256"]
        assert card["layers"] == ([0, 1, 2, 3, 4] if method == "full" else [1, 4])
    assert store.adapters["hubert-base-lora"].json("card.json")["parameters"] == 2 * 4 * 4 * (32 + 32)
    assert store.adapters["hubert-base-lora"].json("card.json")["targets"] == [
        "k_proj", "out_proj", "q_proj", "v_proj",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "targets"),
    [
        ("hubert-large", "lora", ()),
        ("hubert-large", "dora", ("q_proj", "output_dense")),
        ("clip-vit-large", "lora", ("self_attn.v_proj", "fc1")),
        ("baichuan-13b", "lora", ()),
        ("hf-decoder", "dora", ("c_attn", "mlp.c_proj")),
    ],
)
def test_counts_are_pefts(name: str, method: str, targets: tuple[str, ...], make: Make) -> None:
    """As many parameters are trained, and are there, as peft says of its own model of these settings."""
    attention = {
        "hubert-large": ["q_proj", "k_proj", "v_proj", "out_proj"],
        "baichuan-13b": ["W_pack", "o_proj"],
    }
    extractor, plain = make(name), make(name)
    tunable = Tunable.attach(extractor, Method(name=method, layers=(2, 4), rank=3, targets=targets), seed=0)
    plain.load()
    config = peft.LoraConfig(
        r=3,
        target_modules=[target.rpartition(".")[2] for target in targets or attention[name]],
        use_dora=method == "dora",
        layers_to_transform=[1, 3],
        layers_pattern="h" if name == "hf-decoder" else "layers",
        fan_in_fan_out=name == "hf-decoder",
        exclude_modules=r".*attn\.c_proj",
    )
    with pytest.MonkeyPatch.context() as patch:
        # peft asks transformers for something under a name that transformers is about to drop.
        patch.setattr("warnings.warn", lambda *_, **__: None)
        theirs = peft.get_peft_model(plain.net, config)
    assert tunable.counts == theirs.get_nb_trainable_parameters()
    assert set(tunable.state()) == set(peft.get_peft_model_state_dict(theirs, save_embedding_layers=False))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("hubert-base", "lora"),
        ("hubert-base", "full"),
        ("wavlm-large", "dora"),
        ("whisper", "bottleneck"),
        ("roberta-large", "last"),
        ("clip-vit-large", "dora"),
        ("baichuan-13b", "lora"),
        ("baichuan-13b", "bottleneck"),
    ],
)
def test_gradient_checkpointing_changes_no_gradient(
    name: str, method: str, make: Make, clips: dict[str, list[Clip]]
) -> None:
    """Blocks run a second time on the way back, the gradients are the same, and no dropout comes on."""
    grads, runs = [], []
    for checkpointing in (False, True):
        extractor = make(name)
        settings = Method(name=method, layers=None if method == "full" else (1, 2), dropout=0.0)
        tunable = Tunable.attach(extractor, settings, seed=0, gradient_checkpointing=checkpointing)
        for weight in tunable.trainable().values():
            weight.data += 0.05 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(weight.numel())
            )
        calls: list[int] = []
        block = encoder_blocks(extractor.net)[1][1]  # gradients of layer 1 go through it
        inner = next(
            m
            for n, m in block.named_modules()
            if n.rpartition(".")[2] in ("fc1", "out_proj", "dense", "down_proj", "output_dense")
        )
        inner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        tunable.net.train()
        extractor.batch_cost = 1.5  # more than one forward pass before the way back
        rows = tunable.rows(prepared(extractor, clips))
        torch.cat(rows).pow(2).mean().backward()
        grads.append([weight.grad for weight in tunable.trainable().values()])
        runs.append(len(calls))
    assert runs[1] == 2 * runs[0] > 0
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("hubert-base", "lora"),
        ("wavlm-base", "dora"),
        ("roberta-large", "bottleneck"),
        ("hf-decoder", "lora"),
        ("clip-vit-large", "dora"),
    ],
)
def test_only_the_adapters_dropout_is_ever_on(
    name: str, method: str, make: Make, clips: dict[str, list[Clip]]
) -> None:
    """In train mode rows vary by the adapter's dropout; without it they do not, whatever the base's says."""
    for dropout in (0.0, 0.5):
        extractor = make(name)
        settings = Method(name=method, dropout=dropout)
        tunable = Tunable.attach(extractor, settings, seed=0, gradient_checkpointing=True)
        assert extractor.net.config.to_dict().get("hidden_dropout", 0.1) > 0
        for weight in tunable.trainable().values():
            weight.data += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        inputs = prepared(extractor, clips)[:1]
        model = nn.Sequential(tunable.net).train()  # as part of something larger
        assert model[0].training
        first, second = (tunable.rows(inputs)[0].detach() for _ in range(2))
        assert torch.equal(first, second) == (dropout == 0)
        model.eval()
        first, second = (tunable.rows(inputs)[0].detach() for _ in range(2))
        assert torch.equal(first, second)
        if not dropout:
            still = first
    assert torch.equal(first, still)


# WavLM passes torch a boolean mask beside a float one, which torch is about to disallow.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
def test_wavlm_attends_alike_through_its_modules(make: Make) -> None:
    """WavLM's attention with its projections called is transformers' own, padded batches included."""
    ours, theirs = make("wavlm-large"), make("wavlm-large")
    ours.load()
    theirs.load()
    ours.make_tunable()
    values = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6000, dtype=torch.int64)
    mask[1, 4000:] = 0
    for given in ({}, {"attention_mask": mask}):
        a, b = (
            net(values, output_hidden_states=True, **given).hidden_states for net in (ours.net, theirs.net)
        )
        for got, want in zip(a, b, strict=True):
            assert apart(got[0].detach(), want[0].detach()) < 1e-5
            assert apart(got[1, :12].detach(), want[1, :12].detach()) < 1e-5


def test_state_goes_back_in(make: Make, clips: dict[str, list[Clip]]) -> None:
    """Tensors taken out and loaded into a new one give the same rows; those of another method are refused."""
    for method in ("lora", "dora", "bottleneck", "last"):
        first = Tunable.attach(make("hubert-large"), Method(name=method, layers=(3,)), seed=0)
        inputs = prepared(first.extractor, clips)
        tune(first, inputs)
        state = {name: tensor.clone() for name, tensor in first.state().items()}
        second = Tunable.attach(make("hubert-large"), Method(name=method, layers=(3,)), seed=5)
        second.load(state)
        for a, b in zip(rows_of(first, inputs), rows_of(second, inputs), strict=True):
            np.testing.assert_array_equal(a, b)
        other = Tunable.attach(make("hubert-large"), Method(name=method, layers=(2,)), seed=0)
        with pytest.raises(PluginError, match="missing, left over"):
            other.load(state)
        with pytest.raises(PluginError, match="another shape"):
            second.load({name: tensor[:1] for name, tensor in state.items()})


def test_seeds(make: Make) -> None:
    """A seed decides the first weights, and torch's own generator is left where it was."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    a, b, c = (Tunable.attach(make("hubert-large"), Method(), seed=seed).state() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_trimmed(make: Make, clips: dict[str, list[Clip]]) -> None:
    """Sound is cropped, frames are sampled in order from all of a clip, text keeps its beginning."""
    chance = np.random.default_rng(3)
    speech, heard = make("hubert-base"), make("whisper")
    sound = np.arange(50_000, dtype=np.float32)
    cut = speech.trim(sound, 1.5, chance)
    assert len(cut) == 24_000
    assert cut[0] > 0
    assert len(speech.trim(sound, 1e-6, chance)) == speech.view
    assert speech.trim(sound, 10, chance) is sound or len(speech.trim(sound, 10, chance)) == 50_000
    assert len(heard.trim(sound, 1, chance)) == 32_000
    frames = np.repeat(np.arange(40, dtype=np.uint8), 12).reshape(40, 2, 2, 3)
    image, video, uniform = (
        make("clip-vit-large"),
        make("videomae-base"),
        make("videomae-base", sampling="uniform"),
    )
    seen = image.trim(frames, 8, chance)[:, 0, 0, 0]
    assert (seen // 5).tolist() == list(range(8))
    assert (np.diff(video.trim(frames, 16, chance)[:, 0, 0, 0]) == 1).all()
    assert len(video.trim(frames, 1, chance)) == 8
    assert (uniform.trim(frames, 8, chance)[:, 0, 0, 0] // 5).tolist() == list(range(8))
    assert image.trim(frames[:3], 8, chance).shape == (3, 2, 2, 3)
    decoder, text = make("llama2-7b"), make("roberta-large")
    tokens = np.array([[1, 0], [5, 1], [6, 1], [7, 1]])
    assert decoder.trim(tokens, 3, chance).tolist() == tokens[:3].tolist()
    assert decoder.trim(tokens, 1, chance).tolist() == tokens[:2].tolist()
    assert text.trim("why not today", 7, chance) == "why not"
    tunable = Tunable.attach(make("hubert-base"), Method(), seed=0)
    assert tunable.max_cost == 10
    tunable.max_cost = 0.5
    assert len(tunable.trimmed(sound, chance)) == 8000


def test_half_precision_base(make: Make, clips: dict[str, list[Clip]]) -> None:
    """On a bfloat16 base the adapter's own weights are float32 and learn; whole weights are refused."""
    tunable = Tunable.attach(make("baichuan-13b", precision="bfloat16"), Method(), seed=0)
    assert {weight.dtype for weight in tunable.trainable().values()} == {torch.float32}
    inputs = prepared(tunable.extractor, clips)
    assert tunable.rows(inputs)[0].dtype == torch.float32
    before = rows_of(tunable, inputs)
    tune(tunable, inputs)
    assert apart(rows_of(tunable, inputs)[0], before[0]) > 1e-3
    with pytest.raises(PluginError, match="lose most updates"):
        Tunable.attach(make("baichuan-13b", precision="bfloat16"), Method(name="last"), seed=0)


def test_names_in_the_weights_are_the_checkpoints(make: Make) -> None:
    """Whole weights are saved under the loader's names and shapes, whatever was wrapped or cropped."""
    for name, architecture in (("hubert-base", "HubertModel"), ("whisper", "WhisperModel")):
        extractor = make(name, **({"context": "1"} if name == "whisper" else {}))
        tunable = Tunable.attach(extractor, Method(name="full"), seed=0)
        net = getattr(transformers, architecture).from_pretrained(extractor.source.folder)
        known = (net.encoder if name == "whisper" else net).state_dict()
        for key, tensor in tunable.state().items():
            assert known[key].shape == tensor.shape
            assert torch.equal(known[key], tensor)
        assert not any(key.startswith("embed_positions") or "masked_spec" in key for key in tunable.state())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"name": "lorra"}, "did you mean 'lora'"),
    "rank": ({"rank": 0}, "a rank of 0"),
    "bottleneck": ({"name": "bottleneck", "bottleneck": 0}, "a bottleneck of 0"),
    "alpha": ({"alpha": 0.0}, "an alpha of 0"),
    "dropout": ({"dropout": 1.0}, "a dropout of 1"),
    "no layers": ({"layers": ()}, "no layers to train"),
    "layers of full": ({"name": "full", "layers": (1,)}, "full tuning takes no layers"),
    "targets": ({"name": "bottleneck", "targets": ("q_proj",)}, "bottleneck takes no targets"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_methods_that_make_no_sense(fault: str) -> None:
    """Each setting that makes no sense is refused at once, by name."""
    settings, message = WRONG[fault]
    with pytest.raises((PluginError, UnknownName), match=message):
        Method(**settings)


def test_what_cannot_be_attached(make: Make, root: Path, base: Callable[[str], Path], extracted: Any) -> None:
    """Layers, targets, quantisation and rows that an encoder does not have are named, with what it has."""
    for layers, message in (
        ((0,), "no block of hubert-large gives layer 0"),
        ((4, 6), "its 5 blocks give layers 1 to 5|gives layer 6"),
    ):
        with pytest.raises(PluginError, match=message):
            Tunable.attach(make("hubert-large"), Method(layers=layers), seed=0)
    with pytest.raises(PluginError, match="rows are made of layers up to 2"):
        Tunable.attach(make("hubert-large", layers="1-2"), Method(layers=(3,)), seed=0)
    with pytest.raises(PluginError, match="behind no block"):
        Tunable.attach(make("hubert-large", layers="0"), Method(), seed=0)
    with pytest.raises(PluginError, match="is called q_pro") as error:
        Tunable.attach(make("hubert-large"), Method(targets=("q_pro",)), seed=0)
    assert "q_proj" in error.value.remedy
    with pytest.raises(PluginError, match="Prosody has no transformer"):
        Tunable.attach(make_extractor(find_extractor("prosody"), Options()), Method(), seed=0)
    with pytest.raises(PluginError, match="layer axis"):
        Tunable.attach(make("hubert-large", layers="all"), Method(), seed=0)
    with pytest.raises(UnknownName, match="quantisation"):
        Tunable.attach(make("baichuan-13b"), Method(), seed=0, quantize="3bit")
    with pytest.raises(PluginError, match="trains the weights themselves"):
        Tunable.attach(make("baichuan-13b"), Method(name="last"), seed=0, quantize="4bit")
    folder = base("hubert-large")
    options = Options(
        model=str(folder), adapter=adapters.read_folder(root / "adapters" / "hubert-large-lora")
    )
    with pytest.raises(PluginError, match="has adapter hubert-large-lora in it"):
        Tunable.attach(make_extractor(find_extractor("hubert-large"), options), Method(), seed=0)


def test_no_bitsandbytes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes a quantised base is refused before anything is loaded, with how to get it."""
    monkeypatch.setattr("mer_plugins.quantized.find_spec", lambda _: None)
    extractor = make("baichuan-13b")
    with pytest.raises(PluginError, match="needs bitsandbytes") as error:
        Tunable.attach(extractor, Method(), seed=0, quantize="4bit")
    assert "mer-fs[quant]" in error.value.remedy
    assert extractor.net is None
