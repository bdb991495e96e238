"""Whisper's encoder (Radford et al. 2022): `whisper` for any checkpoint, and the published sizes by name.

A row is 20 ms. The encoder always sees 30 s, of which a clip of n samples fills the first ceil(n / 320) rows;
the rest is padding and is left out. Longer clips are encoded in windows of 30 s that overlap by 2 s; at a
seam, rows come from the window in which they lie further from the edge. Layer k is what block k gives; the
last one is taken after the encoder's final layer norm, as transformers counts hidden states.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.media import RATE, read_audio
from mer_plugins.transformer import TransformerExtractor, cards, home
from mer_plugins.windows import Window, windows

Wave = NDArray[np.float32]
HOP = 320  # samples per row: two mel frames of 10 ms
OVERLAP = 100  # rows, 2 s


class Whisper(TransformerExtractor[Wave]):
    """Rows of Whisper's hidden layers, 50 a second."""

    kinds = ("whisper",)
    sizes = ("d_model", "encoder_layers")
    adapter_prefixes = ("model.encoder.", "encoder.")
    frame_hz = RATE / HOP
    batch_cost = 8.0  # windows of 30 s

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        self.rows = int(self.source.config.get("max_source_positions", 1500))
        self._mel: Any = None
        self._seen: dict[int, Any] = {}

    def reading(self) -> Mapping[str, Any]:
        """Return rate and windows."""
        return {"audio": {"rate": RATE}, "window": [self.rows, OVERLAP]}

    def load(self) -> None:
        """Load the encoder alone, drop the blocks above the deepest layer wanted, and watch the others."""
        from transformers import WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        # Checkpoints name the encoder's tensors `model.encoder.…`; without the mapping the encoder's own
        # class finds none of them and would be all random numbers.
        self.net = self.load_net(WhisperEncoder, key_mapping={r"^(model\.)?encoder\.": ""})
        # All Whispers hear alike but for the number of mel bands, so the folder need not say how.
        bands = int(self.source.config.get("num_mel_bins", 80))
        make: Any = WhisperFeatureExtractor
        self._mel = make(feature_size=bands, chunk_length=self.rows * HOP // RATE)
        self.net.layers = self.net.layers[: self.layers.deepest]
        self._watch()

    def _watch(self) -> None:
        """Note what enters the first block and what each block gives, of the layers wanted."""

        def note(layer: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - torch's signature
                self._seen[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        def note_input(module: Any, inputs: Any) -> None:  # noqa: ARG001 - torch's signature
            self._seen[0] = inputs[0]

        if 0 in self.layers.indices:
            first = self.net.layers[0] if len(self.net.layers) else self.net.layer_norm
            first.register_forward_pre_hook(note_input)
        for layer in self.layers.indices:
            if 0 < layer < self.blocks:
                self.net.layers[layer - 1].register_forward_hook(note(layer))
            elif layer == self.blocks:
                self.net.layer_norm.register_forward_hook(note(layer))

    def close(self) -> None:
        """Let go of the weights."""
        super().close()
        self._mel, self._seen = None, {}

    def prepare(self, clip: Clip) -> Wave:
        """Decode to 16 kHz mono."""
        if clip.audio is None:
            raise ClipError(f"clip {clip.key} has no audio")
        return read_audio(clip.audio)

    def cost(self, prepared: Wave) -> float:
        """Return how many windows it takes."""
        return float(len(self._windows(prepared)))

    def seconds(self, prepared: Wave) -> float:
        """Return its seconds."""
        return len(prepared) / RATE

    def encode(self, batch: Sequence[Wave]) -> list[NDArray[np.float32]]:
        """Return `[ceil(n_i / 320), *row_shape]` per waveform."""
        pieces = [(i, window) for i, wave in enumerate(batch) for window in self._windows(wave)]
        cuts = [batch[i][w.start * HOP : w.stop * HOP] for i, w in pieces]
        out = [np.empty((_rows(wave), *self.row_shape), np.float32) for wave in batch]
        for start in range(0, len(pieces), self._together):
            encoded = self._forward(cuts[start : start + self._together])
            for (i, w), rows in zip(pieces[start : start + self._together], encoded, strict=True):
                out[i][w.keep_from : w.keep_to] = rows[w.keep_from - w.start : w.keep_to - w.start]
        return out

    @property
    def _together(self) -> int:
        # A window fills a CPU by itself; alone, its numbers cannot depend on its neighbours in the last bit.
        return 1 if home(self.net).type == "cpu" else max(1, int(self.batch_cost))

    def _windows(self, wave: Wave) -> list[Window]:
        return windows(_rows(wave), self.rows, OVERLAP)

    def _forward(self, cuts: Sequence[Wave]) -> NDArray[np.float32]:
        """Return `[B, 1500, *row_shape]` of waveforms of at most 30 s."""
        import torch

        mel = self._mel(list(cuts), sampling_rate=RATE, return_tensors="np")["input_features"]
        features = torch.from_numpy(np.asarray(mel))
        with torch.inference_mode():
            self._seen = {}
            self.net(features.to(home(self.net), getattr(torch, self.dtype)))
            states = {layer: seen.float() for layer, seen in self._seen.items()}
            rows: NDArray[np.float32] = self.layers.combine(states).cpu().numpy()
        return rows


def _rows(wave: Wave) -> int:
    return math.ceil(len(wave) / HOP)


_MIT = "MIT"
ANY = Checkpoint(name="whisper", model="openai/whisper-base", width=512, blocks=6, licence=_MIT)
TABLE = (
    ANY,
    Checkpoint(name="whisper-tiny", model="openai/whisper-tiny", width=384, blocks=4, licence=_MIT),
    Checkpoint(name="whisper-base", model="openai/whisper-base", width=512, blocks=6, licence=_MIT),
    Checkpoint(name="whisper-small", model="openai/whisper-small", width=768, blocks=12, licence=_MIT),
    Checkpoint(name="whisper-medium", model="openai/whisper-medium", width=1024, blocks=24, licence=_MIT),
    Checkpoint(name="whisper-large-v2", model="openai/whisper-large-v2", width=1280, blocks=32, licence=_MIT),
    Checkpoint(name="whisper-large-v3", model="openai/whisper-large-v3", width=1280, blocks=32, licence=_MIT),
)
CARDS: tuple[ExtractorCard, ...] = cards(Whisper, TABLE, modality="audio", levels=("utt", "frame"))
