"""Noise in the media themselves: a copy of a sound or a film with white noise at a signal-to-noise ratio."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_plugins.media import RATE, iter_frames, read_audio

_TICKS = 90_000  # a second, so that every frame stays where it was


def noisy_sound(path: str, to: Path, snr: float, seed: int) -> Path:
    """Write the sound of a file as mono 16-bit WAV at 16 kHz, with noise; what is too loud is turned down.

    Args:
        path: A file with an audio stream.
        to: Where to.
        snr: Mean power of the sound over that of the noise, in dB; infinite adds none.
        seed: Decides the noise.

    Raises:
        ClipError: Not readable.
    """
    import wave

    sound = read_audio(path).astype(np.float64)
    scale = float(np.sqrt(np.mean(sound**2))) * 10 ** (-snr / 20)
    mixed = sound + np.random.default_rng(seed).normal(0, 1, len(sound)) * scale
    mixed /= max(1.0, float(np.abs(mixed).max(initial=0.0)))
    with wave.open(str(to), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((mixed * 32767).round().astype("<i2").tobytes())
    return to


def noisy_film(path: str, to: Path, snr: float, seed: int) -> Path:
    """Write the pictures of a file without loss (FFV1 in Matroska), with noise, at the times they had.

    Args:
        path: A file with a video stream.
        to: Where to; `.mkv`.
        snr: Variance of all pixels of the film over that of the noise, in dB; infinite adds none.
        seed: Decides the noise.

    Raises:
        ClipError: Not readable.
    """
    import av

    scale = _deviation(path) * 10 ** (-snr / 20)
    rng = np.random.default_rng(seed)
    with av.open(str(to), "w") as container:
        stream = container.add_stream("ffv1", rate=_TICKS)
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for picture in iter_frames(path, every=1):
            if not picture.number:
                stream.height, stream.width = picture.rgb.shape[:2]
            frame = av.VideoFrame.from_ndarray(_mixed(picture.rgb, scale, rng), format="rgb24")
            frame.pts, frame.time_base = round(picture.time * _TICKS), Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return to


def _mixed(rgb: NDArray[np.uint8], scale: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    noise = rng.normal(0, 1, rgb.shape) * scale
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


def _deviation(path: str) -> float:
    """Return the standard deviation of all pixels of a film, frame by frame in little memory."""
    count, total, squares = 0, 0.0, 0.0
    for picture in iter_frames(path, every=1):
        values = picture.rgb.astype(np.float64)
        count += values.size
        total += float(values.sum())
        squares += float((values**2).sum())
    mean = total / max(count, 1)
    return float(np.sqrt(max(squares / max(count, 1) - mean**2, 0.0)))
