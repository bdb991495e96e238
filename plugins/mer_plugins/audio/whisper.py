"""Whisper's encoder (Radford et al. 2022): `whisper` for any checkpoint, and the published sizes by name.

A row is 20 ms. The encoder always sees 30 s, of which a clip of n samples fills the first ceil(n / 320) rows;
the rest is padding and is left out. Longer clips are encoded in windows of 30 s that overlap by 2 s; at a
seam, rows come from the window in which they lie further from the edge. Layer k is what block k gives; the
last one is taken after the encoder's final layer norm, as transformers counts hidden states.

`--option context=2` encodes 2 s at a time instead, by the first 100 of the encoder's positions: a short
clip then costs a fifteenth. It is not what Whisper was trained on (its clips are padded to 30 s), and the
features are others; windows overlap by a quarter, at most 2 s.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.media import RATE, read_audio
from mer_plugins.transformer import OPTIONS, TransformerExtractor, cards, settled
from mer_plugins.windows import Window, windows

if TYPE_CHECKING:
    from torch import Tensor

Wave = NDArray[np.float32]
HOP = 320  # samples per row: two mel frames of 10 ms
OVERLAP = 100  # rows, 2 s


class Whisper(TransformerExtractor[Wave]):
    """Rows of Whisper's hidden layers, 50 a second."""

    kinds = ("whisper",)
    sizes = ("d_model", "encoder_layers")
    adapter_prefixes = ("model.encoder.", "encoder.")
    options_table = {  # noqa: RUF012 - nobody changes it
        **OPTIONS,
        "context": ("30", "seconds encoded at once, of the 30 s the model was trained on"),
    }
    frame_hz = RATE / HOP
    batch_cost = 8.0  # windows of 30 s
    tuning_cost = 1.0
    fixed = (r"^embed_positions\.",)  # sinusoids

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        positions = int(self.source.config.get("max_source_positions", 1500))
        self.positions = min(positions, self.say.integer("context", 1, 30) * RATE // HOP)
        self.overlap = min(OVERLAP, self.positions // 4)
        self._mel: Any = None
        self._seen: dict[int, Any] = {}

    def reading(self) -> Mapping[str, Any]:
        """Return rate and windows."""
        return {"audio": {"rate": RATE}, "window": [self.positions, self.overlap]}

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
        self._mel = make(feature_size=bands, chunk_length=self.positions * HOP // RATE)
        self.net.layers = self.net.layers[: self.layers.deepest]
        self._crop()
        self._watch()

    def _crop(self) -> None:
        """Keep the first positions only."""
        if self.net.config.max_source_positions == self.positions:
            return
        places = self.net.embed_positions
        places.weight = type(places.weight)(places.weight[: self.positions].clone(), requires_grad=False)
        places.num_embeddings = self.net.config.max_source_positions = self.positions

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

    def trim(self, prepared: Wave, most: float, chance: np.random.Generator) -> Wave:
        """Return what fits into `most` windows side by side, from anywhere."""
        samples = max(1, int(most)) * self.positions * HOP
        start = int(chance.integers(max(0, len(prepared) - samples) + 1))
        return prepared[start : start + samples]

    def rows(self, batch: Sequence[Wave]) -> "list[Tensor]":
        """Return `[ceil(n_i / 320), *row_shape]` per waveform."""
        import torch

        pieces = [(i, window) for i, wave in enumerate(batch) for window in self._windows(wave)]
        cuts = [batch[i][w.start * HOP : w.stop * HOP] for i, w in pieces]
        step = max(1, int(self.batch_cost)) if self.together else 1
        parts: list[list[Tensor]] = [[] for _ in batch]
        for start in range(0, len(pieces), step):
            encoded = self._forward(cuts[start : start + step])
            for (i, window), rows in zip(pieces[start : start + step], encoded, strict=True):
                parts[i].append(window.kept(rows))
        return [torch.cat(part) for part in parts]

    def _windows(self, wave: Wave) -> list[Window]:
        return windows(_rows(wave), self.positions, self.overlap)

    def _forward(self, cuts: Sequence[Wave]) -> "Tensor":
        """Return `[B, 1500, *row_shape]` of waveforms of at most 30 s."""
        import torch

        mel = self._mel(list(cuts), sampling_rate=RATE, return_tensors="np")["input_features"]
        features = torch.from_numpy(np.asarray(mel))
        self.net(features.to(self.place, getattr(torch, self.dtype)))
        states = {layer: seen.float() for layer, seen in self._seen.items()}
        self._seen = {}
        return settled(self.layers.combine(states))


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
