"""Self-supervised speech encoders: HuBERT, wav2vec 2.0, WavLM, data2vec, and `hf-audio` for others like them.

Features are hidden layers, one row per 20 ms. Waveforms are normalised to mean 0 and variance 1, over the
whole clip, where the checkpoint's feature extractor says so. Clips longer than a window (30 s) are encoded in
windows that overlap by 2 s; see `mer_plugins.windows` for the seams. Waveforms shorter than one frame's field
of view (25 ms) are refused.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.media import RATE, read_audio
from mer_plugins.transformer import OPTIONS, TransformerExtractor, adapted_cards, cards
from mer_plugins.windows import windows

if TYPE_CHECKING:
    from torch import Tensor

Wave = NDArray[np.float32]
_KERNELS, _STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # what every published one has


class SpeechEncoder(TransformerExtractor[Wave]):
    """Rows of a speech encoder's hidden layers, 50 a second."""

    kinds = (
        "data2vec-audio",
        "hubert",
        "unispeech",
        "unispeech-sat",
        "wav2vec2",
        "wav2vec2-conformer",
        "wavlm",
    )
    options_table = {  # noqa: RUF012 - nobody changes it
        "window": ("30", "seconds encoded at once; longer clips are cut into overlapping windows"),
        "overlap": ("2", "seconds by which windows overlap"),
        **OPTIONS,
    }
    spare = (r"masked_spec_embed$", r"^adapter\.")
    batch_cost = 64.0  # seconds of audio
    tuning_cost = 10.0

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        config = self.source.config
        self.convolutions = list(
            zip(config.get("conv_kernel", _KERNELS), config.get("conv_stride", _STRIDES), strict=True)
        )
        self.hop, self.view = 1, 1  # samples from one row to the next, samples one row sees
        for kernel, stride in self.convolutions:
            self.view += (kernel - 1) * self.hop
            self.hop *= stride
        self.frame_hz = RATE / self.hop
        self.normalise = self._normalise()
        seconds = self.say.number("window", 1, 3600)
        self.window = self.frames(round(seconds * RATE))
        self.overlap = round(self.say.number("overlap", 0, seconds / 2) * self.frame_hz)
        self._ragged: Any = None

    def _normalise(self) -> bool:
        """Return what the checkpoint's feature extractor does to waveforms.

        Raises:
            PluginError: It does not say, or wants another sample rate.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (self.source.folder / name).is_file():
                facts = self.source.json(name)
                facts = facts.get("feature_extractor", facts)
                rate = facts.get("sampling_rate", RATE)
                if rate != RATE:
                    raise PluginError(f"{self.source.model} wants {rate} Hz", f"audio comes in {RATE} Hz")
                return bool(facts.get("do_normalize", True))
        raise PluginError(
            f"{self.source.folder} has no preprocessor_config.json to say whether waveforms are normalised",
            "copy that file from the model it was made from",
        )

    def reading(self) -> Mapping[str, Any]:
        """Return rate, normalisation and windows."""
        return {
            "audio": {"rate": RATE, "normalise": self.normalise},
            "window": [self.window, self.overlap],
        }

    def frames(self, samples: int) -> int:
        """Return how many rows a waveform gives."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return max(0, samples)

    def load(self) -> None:
        """Load the weights and prepare the model for padded batches."""
        super().load()
        from mer_plugins.audio.ragged import MASKABLE, Ragged

        self._ragged = Ragged(self.net, self.kind) if self.kind in MASKABLE else None

    def make_tunable(self) -> None:
        """Let WavLM's attention run its projections as modules, which is where adapters are put."""
        if self.kind == "wavlm":
            from mer_plugins.audio.wavlm import through_modules

            through_modules(self.net)

    def close(self) -> None:
        """Let go of the weights."""
        super().close()
        self._ragged = None

    def prepare(self, clip: Clip) -> Wave:
        """Decode to 16 kHz mono and normalise.

        Raises:
            ClipError: No audio, not readable, or shorter than one frame.
        """
        if clip.audio is None:
            raise ClipError(f"clip {clip.key} has no audio")
        wave = read_audio(clip.audio)
        if self.frames(len(wave)) < 1:
            raise ClipError(f"{clip.audio} has {len(wave)} samples, less than one frame of the encoder")
        if self.normalise:
            wave = ((wave - wave.mean(dtype=np.float64)) / np.sqrt(wave.var(dtype=np.float64) + 1e-7)).astype(
                np.float32
            )
        return wave

    def cost(self, prepared: Wave) -> float:
        """Return its seconds."""
        return len(prepared) / RATE

    def seconds(self, prepared: Wave) -> float:
        """Return its seconds."""
        return len(prepared) / RATE

    def trim(self, prepared: Wave, most: float, chance: np.random.Generator) -> Wave:
        """Return at most `most` seconds of it, from anywhere, but never less than one frame."""
        samples = max(round(most * RATE), self.view)
        start = int(chance.integers(max(0, len(prepared) - samples) + 1))
        return prepared[start : start + samples]

    def rows(self, batch: Sequence[Wave]) -> "list[Tensor]":
        """Return `[T_i, *row_shape]` per waveform, T as `frames` says."""
        import torch

        pieces = [
            (i, cut, self._cut(wave, cut.start, cut.stop))
            for i, wave in enumerate(batch)
            for cut in windows(self.frames(len(wave)), self.window, self.overlap)
        ]
        kept: dict[int, Tensor] = {}
        for group in self._groups([wave for _, _, wave in pieces]):
            for k, rows in zip(group, self._forward([pieces[k][2] for k in group]), strict=True):
                kept[k] = pieces[k][1].kept(rows)
        parts: list[list[Tensor]] = [[] for _ in batch]
        for k, (i, _, _) in enumerate(pieces):
            parts[i].append(kept.pop(k))
        return [torch.cat(part) for part in parts]

    def _cut(self, wave: Wave, start: int, stop: int) -> Wave:
        """Return the samples of rows `[start, stop)`; the last window takes the samples left over."""
        if stop == self.frames(len(wave)):
            return wave[start * self.hop :]
        return wave[start * self.hop : (stop - 1) * self.hop + self.view]

    def _groups(self, waves: Sequence[Wave]) -> list[list[int]]:
        """Return what runs together: up to `batch_cost` padded seconds, of equal lengths if need be."""
        if not self.together:
            return [[k] for k in range(len(waves))]
        order = sorted(range(len(waves)), key=lambda k: len(waves[k]), reverse=True)
        groups: list[list[int]] = []
        for k in order:
            longest = len(waves[groups[-1][0]]) if groups else 0
            fits = groups and longest * (len(groups[-1]) + 1) <= self.batch_cost * RATE
            if fits and (self._ragged is not None or len(waves[k]) == longest):
                groups[-1].append(k)
            else:
                groups.append([k])
        return groups

    def _forward(self, waves: Sequence[Wave]) -> "list[Tensor]":
        from mer_plugins.audio.ragged import batch

        values, mask = batch(waves)
        lengths = [self.frames(len(wave)) for wave in waves]
        equal = len({len(wave) for wave in waves}) == 1
        if self._ragged is not None:
            self._ragged.begin([len(wave) for wave in waves], lengths)
        with warnings.catch_warnings():
            # WavLM passes torch a boolean mask beside a float one, which torch is about to disallow.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
            rows = self.states(input_values=values, attention_mask=None if equal else mask)
        return [rows[i, :length] for i, length in enumerate(lengths)]


_APACHE, _MIT = "Apache-2.0", "MIT"
_WAVLM = "CC BY-SA 3.0 (UniSpeech repository; torchaudio redistributes it as MIT)"

TABLE = (
    Checkpoint("hubert-base", "facebook/hubert-base-ls960", 768, 12, _APACHE),
    Checkpoint("hubert-large", "facebook/hubert-large-ll60k", 1024, 24, _APACHE),
    Checkpoint("chinese-hubert-base", "TencentGameMate/chinese-hubert-base", 768, 12, _MIT),
    Checkpoint("chinese-hubert-large", "TencentGameMate/chinese-hubert-large", 1024, 24, _MIT),
    Checkpoint("wav2vec2-base", "facebook/wav2vec2-base-960h", 768, 12, _APACHE),
    Checkpoint("wav2vec2-large", "facebook/wav2vec2-large-960h", 1024, 24, _APACHE),
    Checkpoint("chinese-wav2vec2-base", "TencentGameMate/chinese-wav2vec2-base", 768, 12, _MIT),
    Checkpoint("chinese-wav2vec2-large", "TencentGameMate/chinese-wav2vec2-large", 1024, 24, _MIT),
    Checkpoint("wavlm-base", "microsoft/wavlm-base", 768, 12, _WAVLM),
    Checkpoint("wavlm-large", "microsoft/wavlm-large", 1024, 24, _WAVLM),
    Checkpoint("data2vec-audio-base", "facebook/data2vec-audio-base-960h", 768, 12, _APACHE),
    Checkpoint("data2vec-audio-large", "facebook/data2vec-audio-large-960h", 1024, 24, _APACHE),
)  # fmt: skip

_FACTS: dict[str, Any] = {"modality": "audio", "levels": ("utt", "frame")}
CARDS = (
    *cards(SpeechEncoder, TABLE, **_FACTS),
    *adapted_cards(SpeechEncoder, TABLE, "hubert-large", "chinese-hubert-large", **_FACTS),
    ExtractorCard(
        name="hf-audio",
        summary="any wav2vec2-like speech encoder: --model PATH_OR_ID",
        build=SpeechEncoder,
        options=SpeechEncoder.options_table,
        needs_model=True,
        layers=SpeechEncoder.default_layers,
        takes_adapter=True,
        **_FACTS,
    ),
)
