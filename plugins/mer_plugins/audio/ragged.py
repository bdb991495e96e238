"""Making padded batches of speech encoders give what each clip would give alone.

Two kinds of layers look at more than a clip's own frames even under an attention mask:

- the group norm after the first convolution of the *base* models (HuBERT, wav2vec2, WavLM): its mean and
  variance run over time, padding included;
- the positional convolutions of data2vec, five in a row with norms between: what spills over a clip's end in
  one comes back into it in the next.

Both are run clip by clip, on the clip's own frames; everything else stays batched.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Model types whose other layers respect the attention mask; others are batched with equal lengths only.
MASKABLE = ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")


class PerClip(nn.Module):
    """Runs a module on each clip's own frames and pads what it gives with zeros.

    Args:
        inner: The module; it must keep the length of the time axis.
        time: The time axis of its input and output.
    """

    def __init__(self, inner: nn.Module, time: int) -> None:
        super().__init__()
        self.inner, self.time = inner, time
        self.lengths: Sequence[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, …]`; without `lengths`, as the module itself."""
        if self.lengths is None:
            whole: Tensor = self.inner(x)
            return whole
        out: Tensor | None = None
        for i, length in enumerate(self.lengths):
            own = self.inner(x[i : i + 1].narrow(self.time, 0, length))
            if out is None:
                shape = list(own.shape)
                shape[0], shape[self.time] = x.shape[0], x.shape[self.time]
                out = own.new_zeros(shape)
            out[i : i + 1].narrow(self.time, 0, length).copy_(own)
        return x if out is None else out


class Ragged:
    """A speech encoder prepared for padded batches.

    Args:
        net: The model, changed in place; load adapters before.
        kind: Its model type.
    """

    def __init__(self, net: Any, kind: str) -> None:
        self.net, self.kind = net, kind
        self.norm: PerClip | None = None
        self.positions: PerClip | None = None
        first = net.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = self.norm = PerClip(first.layer_norm, time=2)
        if kind == "data2vec-audio":
            net.encoder.pos_conv_embed = self.positions = PerClip(net.encoder.pos_conv_embed, time=1)

    def begin(self, samples: Sequence[int], frames: Sequence[int]) -> None:
        """Say how long the clips of the next batch are."""
        kernel, stride = self.net.config.conv_kernel[0], self.net.config.conv_stride[0]
        if self.norm is not None:
            self.norm.lengths = [(n - kernel) // stride + 1 for n in samples]
        if self.positions is not None:
            self.positions.lengths = list(frames)


def batch(waves: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Pad float32 waveforms `[n_i]` to `[B, n]`, with the mask int64 `[B, n]`."""
    longest = max(len(wave) for wave in waves)
    values, mask = torch.zeros(len(waves), longest), torch.zeros(len(waves), longest, dtype=torch.int64)
    for i, wave in enumerate(waves):
        values[i, : len(wave)] = torch.from_numpy(wave)
        mask[i, : len(wave)] = 1
    return values, mask
