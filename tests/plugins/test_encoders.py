"""Whisper, text encoders and the expression net: against transformers' own outputs and published values."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mer_featurestore import Clip
from mer_featurestore.errors import UnknownName
from mer_plugins.audio.whisper import Whisper
from mer_plugins.contract import Extractor, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.samples import voice, write_wav
from mer_plugins.text.hf_text import TextEncoder
from mer_plugins.video.face_expression import FaceExpression
from support import checkpoints


def rows(extractor: Extractor, clip: Clip) -> np.ndarray:
    """Return one clip's rows."""
    extractor.load()
    (encoded,) = extractor.encode([extractor.prepare(clip)])
    extractor.close()
    return encoded


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Whisper that hears 2 s."""
    return checkpoints.whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny BERT."""
    return checkpoints.bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("layers", ["0", "1", "last", "0-2", "all"])
def test_whisper_layers_are_transformers_hidden_states(whisper: Path, tmp_path: Path, layers: str) -> None:
    """Every layer is, to the last bit, the hidden state transformers gives for a whole encoder."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    sound = voice(0.7)
    path = write_wav(tmp_path / "a.wav", sound)
    got = rows(
        Whisper(Options(model=str(whisper), layers=layers, device="cpu")), Clip(key="a", audio=str(path))
    )
    with torch.inference_mode():
        model = WhisperForConditionalGeneration.from_pretrained(whisper).eval().model.encoder
        heard = (sound * 32767).round() / np.float32(32768)
        mel = WhisperFeatureExtractor(feature_size=16, chunk_length=2)(
            heard, sampling_rate=16_000, return_tensors="pt"
        ).input_features
        states = torch.stack(model(mel, output_hidden_states=True).hidden_states, dim=2)[0, :35]
    chosen = {"0": states[:, 0], "1": states[:, 1], "last": states[:, 2], "all": states}
    expected = chosen[layers] if layers in chosen else states[:, 0] + states[:, 1] + states[:, 2]
    assert np.array_equal(got, expected.numpy())


def test_whisper_does_not_run_what_is_not_wanted(whisper: Path) -> None:
    """Blocks above the deepest layer wanted are dropped."""
    extractor = Whisper(Options(model=str(whisper), layers="1"))
    extractor.load()
    assert len(extractor.net.layers) == 1


def test_whisper_counts_only_real_frames(whisper: Path, tmp_path: Path) -> None:
    """A clip of n samples has ceil(n / 320) rows, however much the encoder pads."""
    extractor = Whisper(Options(model=str(whisper)))
    extractor.load()
    for samples, count in ((1, 1), (320, 1), (321, 2), (32_000, 100)):
        path = write_wav(tmp_path / "a.wav", voice(2.0)[:samples])
        assert len(extractor.encode([extractor.prepare(Clip(key="a", audio=str(path)))])[0]) == count


def test_whisper_windows(tmp_path: Path) -> None:
    """Longer clips are windowed: rows before the first seam are those of the first window alone."""
    model = checkpoints.whisper(tmp_path / "model", max_source_positions=150)
    extractor = Whisper(Options(model=str(model), layers="last"))
    extractor.load()
    sound = voice(7.3)
    (whole,) = extractor.encode([sound])
    assert whole.shape == (365, 8)
    assert extractor.cost(sound) == 3
    first, last = extractor.encode([sound[: 150 * 320], sound[215 * 320 :]])
    assert np.array_equal(whole[:131], first[:131])
    assert np.array_equal(whole[239:], last[239 - 215 :])


def test_whisper_context(tmp_path: Path) -> None:
    """With fewer positions, rows are those of an encoder that has no others, and the fingerprint says so."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model = checkpoints.whisper(tmp_path / "model", max_source_positions=150)
    tensors = WhisperForConditionalGeneration.from_pretrained(model).model.encoder.state_dict()
    tensors["embed_positions.weight"] = tensors["embed_positions.weight"][:100]
    facts = json.loads((model / "config.json").read_text()) | {"max_source_positions": 100}
    short = WhisperEncoder(WhisperConfig(**facts)).eval()
    short.load_state_dict(tensors)
    hear = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    extractor = Whisper(Options(model=str(model), layers="last", device="cpu", extra={"context": "2"}))
    extractor.load()
    sound = voice(1.5)
    (got,) = extractor.encode([sound])
    with torch.inference_mode():
        mel = hear(sound, sampling_rate=16_000, return_tensors="pt").input_features
        expected = short(mel).last_hidden_state[0, :75]
    assert np.array_equal(got, expected.numpy())
    long = voice(5.3)
    (windowed,) = extractor.encode([long])
    assert windowed.shape == (265, 8)
    assert extractor.cost(long) == 4  # windows of 100 rows that overlap by 25 at least
    assert np.array_equal(windowed[:80], extractor.encode([long[: 100 * 320]])[0][:80])
    whole = Whisper(Options(model=str(model), layers="last"))
    said = [Whisper(Options(model=str(model), layers="last", extra={"context": c})) for c in ("3", "30")]
    assert all(other.made_by() == whole.made_by() for other in said)
    assert whole.made_by()["window"] == [150, 37]
    assert extractor.made_by()["window"] == [100, 25]
    with pytest.raises(PluginError, match="whole number from 1 to 30"):
        Whisper(Options(model=str(model), extra={"context": "0.5"}))


def test_whisper_refuses_random_tensors(whisper: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks a tensor is refused by name; nothing is filled with random numbers."""
    tensors = load_file(whisper / "model.safetensors")
    del tensors["model.encoder.layers.1.fc1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((whisper / "config.json").read_bytes())
    with pytest.raises(PluginError, match=r"lacks layers.1.fc1.weight"):
        Whisper(Options(model=str(tmp_path))).load()


def test_wrong_kind_of_model(bert: Path) -> None:
    """A text model given to an audio extractor is refused before anything is loaded."""
    with pytest.raises(PluginError, match="is a bert model"):
        Whisper(Options(model=str(bert)))


def test_unknown_layer(whisper: Path) -> None:
    """A layer the encoder does not have is refused with those it has."""
    with pytest.raises(UnknownName, match="layers 0 to 2"):
        Whisper(Options(model=str(whisper), layers="3"))


@pytest.mark.parametrize("layers", ["0", "last", "last4", "all"])
def test_text_layers_are_transformers_hidden_states(bert: Path, layers: str) -> None:
    """Rows are the hidden states of every token, special tokens included."""
    from transformers import AutoModel, AutoTokenizer

    text = "I am so happy!"
    got = rows(TextEncoder(Options(model=str(bert), layers=layers, device="cpu")), Clip(key="a", text=text))
    with torch.inference_mode():
        tokens = AutoTokenizer.from_pretrained(bert)(text, return_tensors="pt")
        states = AutoModel.from_pretrained(bert).eval()(**tokens, output_hidden_states=True).hidden_states
    stacked = torch.stack(states, dim=2)[0]
    expected = {"0": stacked[:, 0], "last": stacked[:, 3], "last4": stacked[:, 1:].sum(1), "all": stacked}
    assert got.shape[0] == 7
    assert np.allclose(got, expected[layers].numpy(), atol=1e-6)


def test_long_texts_are_cut(bert: Path) -> None:
    """A text longer than the model's positions is cut there; a lower limit can be set and is recorded."""
    extractor = TextEncoder(Options(model=str(bert)))
    assert extractor.max_tokens == 32
    assert len(rows(extractor, Clip(key="a", text="so happy " * 100))) == 32
    shorter = TextEncoder(Options(model=str(bert), extra={"max_tokens": "10"}))
    assert len(rows(shorter, Clip(key="a", text="so happy " * 100))) == 10
    assert shorter.made_by() != extractor.made_by()


def test_fingerprints_follow_what_decides_the_values(bert: Path, tmp_path: Path) -> None:
    """Weights, tokenizer, layers and dtype change the fingerprint; where the folder lies does not."""

    def made_by(folder: Path, **options: str) -> str:
        return json.dumps(TextEncoder(Options(model=str(folder), **options)).made_by(), sort_keys=True)

    copy = tmp_path / bert.name
    copy.mkdir()
    for file in bert.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    plain = made_by(bert)
    assert made_by(copy) == plain == made_by(bert, layers="1-3")
    assert made_by(bert, layers="1") != plain != made_by(bert, dtype="bfloat16")
    tensors = load_file(copy / "model.safetensors")
    tensors[min(tensors)] += 1e-3
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert made_by(copy) != plain


def test_expression_net_refuses_other_weights(tmp_path: Path) -> None:
    """Weights that are not this net's, to the last tensor, are refused."""
    folder = checkpoints.face_expression(tmp_path / "net")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("fc.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(PluginError, match="does not hold face-api's expression net"):
        FaceExpression(Options(model=str(folder))).load()


def test_expression_net_pads_as_tensorflow_does() -> None:
    """At stride 2 only the right and the bottom are padded."""
    from mer_plugins.video.face_expression_net import Conv

    conv = Conv(1, 1, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    with torch.inference_mode():
        out = conv(torch.ones(1, 1, 4, 4))[0, 0]
    assert out.tolist() == [[9, 6], [6, 4]]


class TestPublishedValues:
    """Single values measured with the original implementations, to 0.001."""

    @pytest.fixture
    def models(self, shared: Path) -> Iterator[Path]:
        """Return the folder of real weights."""
        return shared / "models"

    def pooled(self, plugin: str, model: Path, clip: Clip, **options: object) -> np.ndarray:
        """Return the mean over rows of one clip."""
        chosen = Options(model=str(model), device="cpu", **options)
        return rows(make_extractor(find_extractor(plugin), chosen), clip).mean(axis=0)

    @pytest.mark.parametrize(
        ("layers", "values"),
        [
            ("2", [0.6395, 0.2965, 0.5902, 0.9348, 0.6460]),
            ("last", [-0.2927, -0.0593, -0.0990, 0.0813, -0.0454]),
        ],
    )
    def test_whisper(self, shared: Path, models: Path, layers: str, values: list[float]) -> None:
        """Whisper tiny.en on two seconds of speech."""
        clip = Clip(key="a", audio=str(shared / "data" / "emodb" / "wav" / "03a01Fa.wav"))
        assert np.allclose(
            self.pooled("whisper", models / "whisper-tiny-en", clip, layers=layers)[:5], values, atol=1e-3
        )

    def test_minilm(self, models: Path) -> None:
        """all-MiniLM-L6-v2 on one sentence."""
        clip = Clip(key="a", text="I am so happy today!")
        vector = self.pooled("hf-text", models / "all-minilm-l6-v2", clip, layers="last")
        assert np.allclose(vector[:5], [-0.0289, 0.1411, 0.3025, 0.0362, 0.2847], atol=1e-3)
        assert np.linalg.norm(vector) == pytest.approx(4.8143, abs=1e-3)

    def test_expression_net(self, models: Path) -> None:
        """The net on a grey picture: embedding and probabilities."""
        grey = np.full((1, 112, 112, 3), 128, np.uint8)
        for output, values in (
            ("embedding", [0.8895, 0.0022, 0.3943, 1.0007, 0.0325]),
            ("probabilities", [0.77053, 0.10972, 0.02673, 0.04448, 0.00043, 0.03672, 0.01139]),
        ):
            options = Options(model=str(models / "face-expression"), extra={"output": output}, device="cpu")
            extractor = FaceExpression(options)
            extractor.load()
            assert np.allclose(extractor.encode([grey])[0][0, : len(values)], values, atol=1e-3)

    def test_expression_of_a_real_face(self, shared: Path, models: Path) -> None:
        """A frame of a real video, decoded and cropped here, to 0.01."""
        clip = Clip(key="a", video=str(shared / "data" / "composite" / "videos" / "cp_0001.mp4"))
        extra = {"output": "probabilities", "every": "25", "face": "center"}
        options = Options(model=str(models / "face-expression"), extra=extra, device="cpu")
        got = rows(FaceExpression(options), clip)
        assert np.allclose(got[1], [0.020, 0.433, 0.171, 0.087, 0.011, 0.000, 0.278], atol=0.01)


def test_empty_transcript(bert: Path) -> None:
    """An empty transcript is refused with the reason."""
    with pytest.raises(ClipError, match="the transcript is empty"):
        TextEncoder(Options(model=str(bert))).prepare(Clip(key="a", text=" "))
