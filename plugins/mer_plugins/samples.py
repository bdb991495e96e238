"""Small media files made on the spot, for tests of extractors: a voice-like tone, a moving picture."""

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip, Modality

SENTENCES = (
    "I am so happy today!",
    "no",
    "Was ist denn hier passiert? Das kann doch nicht wahr sein.",
    "我很高兴",
)


def voice(seconds: float, f0: float = 150.0, rate: int = 16_000) -> NDArray[np.float32]:
    """Return a harmonic tone `[n]` with a gliding pitch and a syllable rhythm, in [-0.5, 0.5]."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * t))) / rate
    sound = sum(np.sin(k * phase) / k for k in range(1, 12))
    sound = sound * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))
    return np.asarray(sound / 4, dtype=np.float32).clip(-0.5, 0.5)


def write_wav(path: Path, sound: NDArray[np.float32], rate: int = 16_000) -> Path:
    """Write mono float32 `[n]` as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return path


def pictures(count: int, height: int = 96, width: int = 128, first: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Yield RGB frames uint8 `[H, W, 3]` of a bright square that wanders over a gradient, from `first` on."""
    ramp = np.linspace(20, 120, width)[None, :, None] * np.array([1.0, 0.8, 0.6])
    for k in range(first, first + count):
        frame = np.repeat(ramp, height, axis=0)
        x, y = 4 * k % (width - 32), 2 * k % (height - 32)
        frame[y : y + 32, x : x + 32] = (230, 200 - k % 100, 180)
        yield frame.astype(np.uint8)


def write_film(
    path: Path, frames: Iterator[NDArray[np.uint8]], fps: int = 25, times: list[float] | None = None
) -> Path:
    """Encode frames as MPEG-4 video; `times` (seconds) makes the frame rate variable."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for k, rgb in enumerate(frames):
            if not k:
                stream.height, stream.width = rgb.shape[:2]
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = round(1000 * (times[k] if times else k / fps))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sample_clips(folder: Path, modality: Modality) -> list[Clip]:
    """Make four clips of different lengths in a folder."""
    if modality == "text":
        return [Clip(key=f"text{k}", text=text) for k, text in enumerate(SENTENCES)]
    clips = []
    for k, seconds in enumerate((0.4, 1.3, 0.7, 1.3)):
        if modality == "audio":
            path = str(write_wav(folder / f"audio{k}.wav", voice(seconds, 110 + 40 * k)))
            clips.append(Clip(key=f"audio{k}", audio=path))
        else:
            path = str(write_film(folder / f"video{k}.mp4", pictures(round(25 * seconds), first=9 * k)))
            clips.append(Clip(key=f"video{k}", video=path))
    return clips


def empty_clips(folder: Path, modality: Modality) -> list[Clip]:
    """Make clips with nothing in them: no bytes, a header without samples, blank text, no medium at all."""
    if modality == "text":
        return [Clip(key="blank", text=""), Clip(key="spaces", text=" \n"), Clip(key="none")]
    nothing = folder / "nothing.mp4"
    nothing.write_bytes(b"")
    header = write_wav(folder / "header.wav", np.zeros(0, np.float32))
    media = {"nothing": nothing, "header": header, "absent": folder / "absent.mp4"}
    if modality == "audio":
        return [Clip(key="none"), *(Clip(key=key, audio=str(path)) for key, path in media.items())]
    return [Clip(key="none"), *(Clip(key=key, video=str(path)) for key, path in media.items())]


def shortest_clip(folder: Path, modality: Modality) -> Clip:
    """Make the shortest clip there can be: one sample, one frame, one letter."""
    if modality == "text":
        return Clip(key="letter", text="a")
    if modality == "audio":
        path = str(write_wav(folder / "sample.wav", np.full(1, 0.25, np.float32)))
        return Clip(key="sample", audio=path)
    return Clip(key="frame", video=str(write_film(folder / "frame.mp4", pictures(1))))
