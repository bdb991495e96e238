"""Every family of published encoders, from tiny checkpoints on disk through the real loading path."""

import itertools
import json
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import load_hf_model, locate
from mer_plugins.contract import Extractor, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.host import find_extractor
from mer_plugins.testing import ExtractorTests
from mer_plugins.transformer import TransformerExtractor
from mer_plugins.windows import windows
from support.tiny import MAKERS, large_weights, tokenizer

Build = Callable[..., Extractor[Any]]
AUDIO = [name for name in MAKERS if find_extractor(name).modality == "audio"]
VIDEO = [name for name in MAKERS if find_extractor(name).modality == "video"]
TEXT = [name for name in MAKERS if find_extractor(name).modality == "text"]
SECONDS = (1.0, 0.55, 0.7123, 0.3, 0.55)
LINES = ("i am so happy today", "why", "the cat sat on a mat", "hello hello why not", "so")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Return clips of unequal lengths with sound, pictures and a transcript."""
    import av

    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(1)
    made = []
    for k, (seconds, line) in enumerate(zip(SECONDS, LINES, strict=True)):
        sound = (rng.standard_normal(round(seconds * 16_000)) * 6000).astype("<i2")
        with wave.open(str(root / f"{k}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(sound.tobytes())
        with av.open(str(root / f"{k}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate=20)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for picture in rng.integers(0, 255, (round(seconds * 20), 48, 64, 3), dtype=np.uint8):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
        media = {"audio": str(root / f"{k}.wav"), "video": str(root / f"{k}.mp4")}
        made.append(Clip(key=f"c{k}", text=line, **media))
    return made


@pytest.fixture
def build(base: Callable[[str], Path]) -> Build:
    """Return a builder of an extractor on its tiny checkpoint, by the name typed after `--plugin`."""

    def extractor(name: str, layers: str | None = None, model: Path | None = None, **extra: str) -> Any:
        card = find_extractor(name)
        if card.modality == "video":
            extra = {"face": "center", **extra}
        folder = str(model or base(name))
        return card.build(Options(model=folder, layers=layers, device="cpu", extra=extra))

    return extractor


class OnTinyCheckpoint(ExtractorTests):
    """The conformance kit on a family, forward passes alone as on a CPU: the same to the last bit."""

    family: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def aim(cls, base: Callable[[str], Path]) -> None:
        """Point the kit at the family's tiny checkpoint."""
        cls.card = find_extractor(cls.family)
        extra = {"face": "center"} if cls.card.modality == "video" else {}
        cls.options = Options(model=str(base(cls.family)), device="cpu", extra=extra)


for _name in MAKERS:
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (OnTinyCheckpoint,), {"family": _name})


def rows_of(extractor: Extractor[Any], clips: list[Clip]) -> list[Any]:
    """Return what each clip gives alone."""
    prepared = [extractor.prepare(clip) for clip in clips]
    return [extractor.encode([one])[0] for one in prepared]


def apart(a: Any, b: Any) -> float:
    """Return the largest difference relative to the largest value."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_as_declared_and_do_not_depend_on_companions(
    name: str, build: Build, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From disk to rows: shape as declared, finite, the same in any company, forward passes shared or not."""
    extractor = build(name)
    facts = json.dumps(extractor.made_by(), sort_keys=True)
    extractor.load()
    alone = rows_of(extractor, clips)
    prepared = [extractor.prepare(clip) for clip in clips]
    for rows in alone:
        assert rows.dtype == np.float32
        assert rows.shape[1:] == tuple(extractor.row_shape)
        assert len(rows) > 0
        assert np.isfinite(rows).all()
    for one, among in zip(alone, extractor.encode(prepared), strict=True):
        np.testing.assert_array_equal(one, among)
    monkeypatch.setattr(TransformerExtractor, "together", True)
    for order in ([0, 1, 2, 3, 4], [3, 1, 4], [2, 0]):
        batched = extractor.encode([prepared[k] for k in order])
        for k, rows in zip(order, batched, strict=True):
            assert rows.shape == alone[k].shape
            assert apart(rows, alone[k]) <= 1e-4
    assert all(apart(a.mean(axis=0), b.mean(axis=0)) > 1e-4 for a, b in itertools.pairwise(alone))
    assert json.dumps(extractor.made_by(), sort_keys=True) == facts
    extractor.close()


@pytest.mark.parametrize("name", [*AUDIO, *TEXT])
def test_layers_are_those_of_the_model(name: str, build: Build, clips: list[Clip]) -> None:
    """`all` has one layer more than blocks; `last4` is the sum of its last four; `last` its last."""
    every = build(name, layers="all")
    every.load()
    stacked = rows_of(every, clips[:1])[0]
    assert every.row_shape == (6, 32)
    assert stacked.shape[1:] == (6, 32)
    for layers, want in (
        ("last4", stacked[:, 2:].sum(axis=1)),
        ("last", stacked[:, 5]),
        ("0", stacked[:, 0]),
    ):
        extractor = build(name, layers=layers)
        extractor.load()
        assert apart(rows_of(extractor, clips[:1])[0], want) < 1e-5


@pytest.mark.parametrize("name", AUDIO)
def test_speech_rows_equal_a_plain_forward_pass(
    name: str, build: Build, clips: list[Clip], base: Callable[[str], Path]
) -> None:
    """A clip's rows must be transformers' own hidden states of its normalised waveform, one per 20 ms."""
    from transformers import AutoFeatureExtractor, AutoModel

    from mer_plugins.media import read_audio

    extractor = build(name)
    extractor.load()
    sound = read_audio(clips[2].audio or "")
    net = AutoModel.from_pretrained(base(name)).eval()
    reader = AutoFeatureExtractor.from_pretrained(base(name))
    inputs = reader(sound, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        want = torch.stack(net(inputs, output_hidden_states=True).hidden_states)[-4:].sum(0)[0].numpy()
    got = rows_of(extractor, [clips[2]])[0]
    assert len(got) == 1 + (round(0.7123 * 16_000) - 400) // 320
    assert apart(got, want) < 1e-5


def test_padding_would_change_base_models(base: Callable[[str], Path], clips: list[Clip]) -> None:
    """What the families guard against must be real: naively padded, a group-norm model gives other frames."""
    from transformers import AutoModel

    net = AutoModel.from_pretrained(base("hubert-base")).eval()
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    padded, mask = torch.zeros(1, 16_000), torch.zeros(1, 16_000, dtype=torch.long)
    padded[:, :8000], mask[:, :8000] = sound, 1
    with torch.inference_mode():
        alone = net(sound).last_hidden_state
        among = net(padded, attention_mask=mask).last_hidden_state[:, : alone.shape[1]]
    assert apart(among, alone) > 0.01


OLD_NAMES = {
    "hubert-base": {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    },
    "videomae-base": {
        "attention.attention.query.bias": "attention.attention.q_bias",
        "attention.attention.value.bias": "attention.attention.v_bias",
    },
}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_published_tensor_names_load(
    name: str, build: Build, clips: list[Clip], base: Callable[[str], Path], tmp_path: Path
) -> None:
    """Published files name speech encoders' weight norm and VideoMAE's biases otherwise; they must count."""
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(base(name), tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").unlink()
    weights = load_file(base(name) / "model.safetensors")
    for new, old in OLD_NAMES[name].items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    assert all(any(old in key for key in weights) for old in OLD_NAMES[name].values())
    torch.save(weights, tmp_path / "old" / "pytorch_model.bin")
    today, before = build(name), build(name, model=tmp_path / "old")
    today.load()
    before.load()
    np.testing.assert_array_equal(rows_of(before, clips[:1])[0], rows_of(today, clips[:1])[0])
    assert before.made_by() != today.made_by()


def test_long_audio_is_windowed(build: Build, clips: list[Clip]) -> None:
    """A clip longer than a window must have every row once, those of a window as that window gives them."""
    whole, cut = build("hubert-large"), build("hubert-large", window="1", overlap="0.5")
    whole.load()
    cut.load()
    sound = np.random.default_rng(0).standard_normal(3 * 16_000 + 77).astype(np.float32)
    a, b = whole.encode([sound])[0], cut.encode([sound])[0]
    assert a.shape == b.shape
    kept = np.concatenate(
        [np.arange(w.keep_from, w.keep_to) for w in windows(len(a), cut.window, cut.overlap)]
    )
    np.testing.assert_array_equal(kept, np.arange(len(a)))
    first = cut.encode([sound[: (cut.window - 1) * 320 + 400]])[0]
    np.testing.assert_array_equal(b[:30], first[:30])
    assert 1e-6 < apart(b, a) < 1.0


@pytest.mark.parametrize(
    ("rows", "size", "overlap"), [(10, 4, 2), (9, 4, 1), (5, 4, 0), (4, 4, 2), (100, 30, 7)]
)
def test_windows_cover_each_row_once(rows: int, size: int, overlap: int) -> None:
    """Windows must be of one size, inside the input, and keep each row exactly once, inside themselves."""
    cuts = windows(rows, size, overlap)
    assert [t for w in cuts for t in range(w.keep_from, w.keep_to)] == list(range(rows))
    for cut in cuts:
        assert 0 <= cut.start <= cut.keep_from < cut.keep_to <= cut.stop <= rows
        assert cut.stop - cut.start == min(size, rows)


def test_too_short_sound_is_refused(build: Build, tmp_path: Path) -> None:
    """Sound shorter than one frame's field of view (25 ms) must be refused with a reason, not crash."""
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\1\0" * 399)
    with pytest.raises(ClipError, match="399 samples"):
        build("hubert-base").prepare(Clip(key="s", audio=str(tmp_path / "short.wav")))


@pytest.mark.parametrize("name", ["clip-vit-large", "siglip-base", "dinov2-base", "hf-image"])
def test_pixels_equal_the_image_processors(name: str, build: Build, base: Callable[[str], Path]) -> None:
    """On pictures of the right size, our arithmetic must be that of transformers' own (PIL) processor."""
    from transformers import AutoImageProcessor

    extractor: Any = build(name)
    side = extractor.pixels.side
    frames = np.random.default_rng(0).integers(0, 255, (3, side, side, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(base(name), backend="pil")
    want = processor(images=list(frames), return_tensors="np")["pixel_values"]
    got = extractor.pixels.tensor(extractor.pixels.seen(frames), torch.device("cpu")).numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_image_embeddings_equal_the_whole_models(build: Build, base: Callable[[str], Path]) -> None:
    """CLIP's and SigLIP's rows must be what the two-tower model calls its image features."""
    from transformers import AutoModel

    for name, width in (("clip-vit-large", 24), ("siglip-base", 32)):
        extractor: Any = build(name)
        extractor.load()
        assert extractor.row_shape == (width,)
        frames = np.random.default_rng(0).integers(0, 255, (2, 28, 28, 3), dtype=np.uint8)
        net = AutoModel.from_pretrained(base(name)).eval()
        with torch.inference_mode():
            pixels = extractor.pixels.tensor(frames, torch.device("cpu"))
            want = net.get_image_features(pixel_values=pixels).pooler_output.numpy()
        assert apart(extractor.encode([frames])[0], want) < 1e-5


def test_image_readouts(build: Build, clips: list[Clip]) -> None:
    """`--layers` turns CLIP to hidden layers; `cls` is the first token; what makes no sense is refused."""
    mean, token = build("clip-vit-large", layers="all"), build("clip-vit-large", layers="all", readout="cls")
    mean.load()
    token.load()
    assert mean.row_shape == token.row_shape == (6, 32)
    assert apart(rows_of(mean, clips[:1])[0], rows_of(token, clips[:1])[0]) > 1e-3
    assert "layers" not in build("clip-vit-large").made_by()
    with pytest.raises(PluginError, match="no layers"):
        build("clip-vit-large", layers="last", readout="embedding")
    with pytest.raises(PluginError, match="no class token"):
        build("siglip-base", readout="cls")


def test_video_windows(build: Build, clips: list[Clip]) -> None:
    """Windows follow each other and end with the clip; short clips repeat frames; tubelets split a window."""
    sliding: Any = build("videomae-base", fps="20")
    assert [w.tolist() for w in sliding.windows(3)] == [[0, 1, 2, 2, 2, 2, 2, 2]]
    assert [w[0] for w in sliding.windows(20)] == [0, 8, 12]
    uniform: Any = build("videomae-base", fps="20", sampling="uniform", rows="tubelet")
    assert uniform.windows(16)[0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    sliding.load()
    uniform.load()
    assert [len(rows) for rows in rows_of(sliding, clips)] == [3, 2, 2, 1, 2]
    assert [len(rows) for rows in rows_of(uniform, clips)] == [4] * 5
    whole = build("videomae-base", fps="20", sampling="uniform")
    whole.load()
    pooled = rows_of(uniform, clips[:1])[0].mean(axis=0, keepdims=True)
    assert apart(pooled, rows_of(whole, clips[:1])[0]) < 1e-5


def test_decoders_leave_out_what_the_tokenizer_adds(build: Build, clips: list[Clip]) -> None:
    """LLaMA's start token must shape the states of the words and have no row of its own."""
    extractor: Any = build("llama2-7b")
    extractor.load()
    prepared = extractor.prepare(clips[0])
    assert prepared[0].tolist() == [1, 0]
    assert prepared[1:, 1].all()
    assert len(extractor.encode([prepared])[0]) == len(prepared) - 1
    for text in (None, "", "  "):
        with pytest.raises(ClipError, match="empty"):
            extractor.prepare(Clip(key="e", text=text))


def test_baichuan_tokenises_chinese_with_sentencepiece(build: Build) -> None:
    """Tokens must be the sentencepiece model's own: what it does not know becomes bytes, nothing is added."""
    extractor: Any = build("baichuan2-7b")
    extractor.load()
    ids, real = extractor.tokenize("今天 happy 🙂")
    assert extractor.tokenizer.decode(ids) == "今天 happy 🙂"
    assert all(real)
    assert extractor.encode([extractor.prepare(Clip(key="z", text="今天天气真好"))])[0].shape[1] == 32


def test_encoders_are_no_decoders(build: Build, tmp_path: Path) -> None:
    """A bidirectional model must be refused as a decoder, since padding and pooling would be wrong for it."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    large_weights(BertModel(BertConfig(vocab_size=330, **sizes))).save_pretrained(tmp_path)
    tokenizer(tmp_path, "PreTrainedTokenizerFast")
    with pytest.raises(PluginError, match="no causal decoder"):
        build("hf-decoder", model=tmp_path).load()


def test_device_map_gives_the_same_rows(build: Build, clips: list[Clip]) -> None:
    """Spread by accelerate, or with its weights kept off the device, a model must give the same rows."""
    from accelerate import cpu_offload

    plain, spread = build("baichuan-13b"), build("baichuan-13b", device_map="auto")
    plain.load()
    spread.load()
    want = rows_of(plain, clips[:1])[0]
    np.testing.assert_allclose(rows_of(spread, clips[:1])[0], want, atol=1e-5)
    away: Any = build("baichuan-13b")
    away.load()
    cpu_offload(away.net, execution_device=torch.device("cpu"))
    assert next(away.net.parameters()).device.type == "meta"
    np.testing.assert_allclose(rows_of(away, clips[:1])[0], want, atol=1e-5)


def test_half_precision_stays_close(base: Callable[[str], Path], clips: list[Clip]) -> None:
    """In bfloat16 rows must be near those of float32, be float32 themselves, and have another fingerprint."""
    made = {}
    for dtype in ("float32", "bfloat16"):
        said = {} if dtype == "float32" else {"precision": dtype}
        options = Options(model=str(base("hubert-large")), device="cpu", extra=said)
        made[dtype] = find_extractor("hubert-large").build(options)
        made[dtype].load()
    full, half = (rows_of(made[dtype], clips[:1])[0] for dtype in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.linalg.norm(full - half) < 0.1 * np.linalg.norm(full)
    assert made["float32"].made_by() != made["bfloat16"].made_by()


@pytest.mark.parametrize("what", ["missing", "stray"])
def test_partial_checkpoints_are_refused(what: str, base: Callable[[str], Path], tmp_path: Path) -> None:
    """A tensor that is missing, or has no place, must be named: nothing is filled with random numbers."""
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import HubertModel

    shutil.copytree(base("hubert-large"), tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    weights = load_file(file)
    block = {key: value for key, value in weights.items() if key.startswith("encoder.layers.4.")}
    if what == "missing":
        weights = {key: value for key, value in weights.items() if key not in block}
    else:
        weights |= {key.replace("layers.4", "layers.5"): value.clone() for key, value in block.items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(PluginError, match=r"encoder\.layers\.[45]"):
        load_hf_model(HubertModel, str(tmp_path / "broken"))


def test_pickles_that_are_more_than_tensors_are_refused(base: Callable[[str], Path], tmp_path: Path) -> None:
    """A `.bin` that would run code when unpickled must not be loaded."""
    import shutil

    from transformers import HubertModel

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    shutil.copytree(base("hubert-large"), tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").unlink()
    torch.save({"x": Touch()}, tmp_path / "bad" / "pytorch_model.bin")
    with pytest.raises(PluginError, match="more than tensors"):
        load_hf_model(HubertModel, str(tmp_path / "bad"))
    assert not (tmp_path / "ran").exists()


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    """A checkpoint of a kind transformers has not must be refused, saying so, its code unread."""
    from transformers import AutoModel

    config = {"model_type": "emotion2vec", "auto_map": {"AutoModel": "net.Net", "AutoConfig": "net.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "net.py").write_text("raise SystemExit('ran')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(PluginError, match="code beside its weights"):
        load_hf_model(AutoModel, str(tmp_path))


CODE = """
from transformers import BertConfig, BertModel

class OddConfig(BertConfig):
    model_type = "odd-bert"

class OddModel(BertModel):
    config_class = OddConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.hidden_states = tuple(2 * state for state in out.hidden_states)
        return out
"""


def test_trusted_code(
    build: Build, base: Callable[[str], Path], clips: list[Clip], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Only where it is trusted is a checkpoint's code run; what it is goes into the fingerprint."""
    import shutil

    from transformers import dynamic_module_utils

    from mer_plugins.host import make_extractor

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = shutil.copytree(base("chinese-macbert-large"), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    places = {"AutoConfig": "odd.OddConfig", "AutoModel": "odd.OddModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd-bert", "auto_map": places}))
    (folder / "odd.py").write_text(CODE)
    card, given = find_extractor("hf-text"), {"model": str(folder), "device": "cpu"}
    with pytest.raises(PluginError, match="code beside its weights"):
        make_extractor(card, Options(**given)).load()
    trusting = make_extractor(card, Options(**given, trust_remote_code=True))
    trusting.load()
    plain = build("hf-text", model=base("chinese-macbert-large"))
    plain.load()
    assert apart(rows_of(trusting, clips)[0], 2 * rows_of(plain, clips)[0]) < 1e-6
    before = trusting.made_by()["checkpoint"]["remote_code_sha256"]
    (folder / "odd.py").write_text(CODE + "# changed")
    after = make_extractor(card, Options(**given, trust_remote_code=True)).made_by()
    assert after["checkpoint"]["remote_code_sha256"] != before
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "a/b--odd.OddModel"}}))
    with pytest.raises(PluginError, match="takes its code from another repository: a/b--odd"):
        make_extractor(card, Options(**given, trust_remote_code=True))
    with pytest.raises(PluginError, match="hubert-large never runs the code"):
        make_extractor(find_extractor("hubert-large"), Options(**given, trust_remote_code=True))


def test_wrong_checkpoints_are_refused(build: Build, base: Callable[[str], Path], tmp_path: Path) -> None:
    """Another family's checkpoint, a folder that is none, and a path that is not there must be named."""
    with pytest.raises(PluginError, match="is a clip model"):
        build("hubert-large", model=base("clip-vit-large"))
    with pytest.raises(PluginError, match=r"has no config\.json"):
        build("hubert-large", model=tmp_path)
    with pytest.raises(PluginError, match="no checkpoint folder"):
        locate(str(tmp_path / "nowhere"))
    with pytest.raises(PluginError, match="no revisions"):
        locate(str(tmp_path), "main")
    with pytest.raises(PluginError, match=r"--model"):
        find_extractor("hf-audio").build(Options())


def test_fingerprints_follow_weights_and_settings(
    build: Build, base: Callable[[str], Path], tmp_path: Path
) -> None:
    """The fingerprint must change with weights, settings, layers and windows, and with nothing else."""
    import shutil

    first = build("hubert-large").made_by()
    shutil.copytree(base("hubert-large"), tmp_path / "hubert-large")
    assert build("hubert-large", model=tmp_path / "hubert-large").made_by() == first
    assert build("hubert-large", layers="2-5").made_by() == first
    others = [build("hubert-large", layers="3").made_by(), build("hubert-large", window="9").made_by()]
    config = tmp_path / "hubert-large" / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    others.append(build("hubert-large", model=tmp_path / "hubert-large").made_by())
    assert all(other != first for other in others)


def test_the_table_in_the_docs_is_the_code() -> None:
    """docs/encoders.md must list every named checkpoint with its hub id, width and licence, and no other."""
    from mer_plugins.builtin import FAMILIES

    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    told = {line for line in page.splitlines() if line.startswith("| `")}
    rows = [row for family in FAMILIES for row in getattr(family, "TABLE", ())]
    want = {
        f"| `{row.name}` | `{row.model}` | {row.width} | {row.blocks} "
        f"| {find_extractor(row.name).layers} | {row.licence} |"
        for row in rows
    }
    assert told == want


def test_tables_are_complete() -> None:
    """Every named checkpoint must name a hub id and a licence, once, and list without heavy imports."""
    from mer_plugins.builtin import FAMILIES

    rows = [row for family in FAMILIES for row in getattr(family, "TABLE", ())]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert row.licence
        assert row.model.count("/") == 1
        assert row.width > 0
        assert row.blocks > 0
