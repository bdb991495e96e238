"""Writing WAV and MP4 files: whole or not at all."""

import io
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mer_plugins.synthetic.voice import RATE

if TYPE_CHECKING:
    import av


def wav_bytes(sound: NDArray[np.float64]) -> bytes:
    """Return a 16-bit mono WAV of a sound within ±1."""
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return memory.getvalue()


def mp4_bytes(
    frames: Iterable[NDArray[np.uint8]], fps: int, sound: NDArray[np.float64] | None = None
) -> bytes:
    """Return an MP4 of RGB frames `[H, W, 3]`, H.264 (MPEG-4 part 2 where there is no x264), sound as AAC."""
    import av

    images = list(frames)
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        video = _video_stream(container, fps)
        video.height, video.width = images[0].shape[:2]
        voice = (
            None if sound is None else container.add_stream("aac", rate=RATE, layout="mono", bit_rate=48_000)
        )
        for image in images:
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            )
        container.mux(video.encode())
        if sound is not None and voice is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return memory.getvalue()


def _video_stream(container: "av.container.OutputContainer", fps: int) -> "av.VideoStream":
    """One thread, so that the same frames give the same bytes."""
    from av.codec.codec import UnknownCodecError

    try:
        options = {"preset": "veryfast", "crf": "23", "threads": "1"}
        stream = container.add_stream("libx264", fps, options)
    except UnknownCodecError:
        stream = container.add_stream("mpeg4", fps, {"qscale": "3"})
    stream.pix_fmt = "yuv420p"
    return stream


def write(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
