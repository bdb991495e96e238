"""Media of any container and codec, through PyAV: audio as 16 kHz mono float32, video frames as RGB.

Times are seconds from the first frame (or sample) of the stream itself, so that a file whose audio starts
after its video gives each stream as it is. Every function opens and closes its own container, and any thread
may call it. Whatever cannot be read is a `ClipError` that says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mer_plugins.errors import ClipError

if TYPE_CHECKING:
    import av
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.frame import VideoFrame

RATE = 16_000
# Files of these formats say how long they are; the others (MP3, ADTS …) are only estimated.
_EXACT_FORMATS = {"mov", "mp4", "matroska", "webm", "flac", "avi", "aiff", "caf"}
_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


class Picture(NamedTuple):
    """One video frame: its number, its time in seconds after the first frame, and `rgb` uint8 `[H, W, 3]`."""

    number: int
    time: float
    rgb: NDArray[np.uint8]


class _Shown(NamedTuple):
    """A decoded frame and the half-open interval `[start, end)` in which it is on the screen."""

    number: int
    start: float
    end: float
    frame: "VideoFrame"


def read_audio(path: str | Path, *, rate: int = RATE, from_zero: bool = False) -> NDArray[np.float32]:
    """Decode the first audio stream to mono float32 `[n]` at `rate` Hz.

    Channels are averaged; resampling is soxr's at high quality; every sample the decoder hands out is kept.

    Args:
        path: A local file.
        rate: Hz.
        from_zero: Put silence in front of a stream that starts late, so that sample 0 is time 0 of the file.

    Raises:
        ClipError: No such file, no audio stream, not decodable, cut off, or not one sample.
    """
    with _open(path) as container:
        stream = cast("av.AudioStream", _stream(container, "audio", path))
        pieces, first = _audio_pieces(container, stream, path)
        seconds = sum(len(samples) / hz for hz, samples in pieces)
        if not seconds:
            raise ClipError(f"the audio stream of {path} holds no samples")
        if _exact(container) and stream.duration and stream.time_base:
            declared = float(stream.duration * stream.time_base)
            if seconds < declared - _slack(declared):
                raise ClipError(f"{path} is damaged: {seconds:.2f} of {declared:.2f} s of sound decode")
    sound = np.concatenate([_resample(samples, hz, rate) for hz, samples in pieces])
    if from_zero and first > 0:
        sound = np.concatenate([np.zeros(round(first * rate), np.float32), sound])
    return sound


def read_frames(
    path: str | Path,
    *,
    every: int | None = None,
    fps: float | None = None,
    times: Sequence[float] | None = None,
    indices: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """Decode chosen frames to uint8 RGB `[N, H, W, 3]`; see `iter_frames`, but in any order and with repeats.

    Raises:
        ClipError: Not readable, or a frame asked for does not exist.
    """
    order: NDArray[np.intp] | None = None
    if times is not None:
        moments, order = np.unique(np.asarray(times, float), return_inverse=True)
        times = moments.tolist()
    if indices is not None:
        numbers, order = np.unique(np.asarray(indices, int), return_inverse=True)
        indices = numbers.tolist()
    pictures = [p.rgb for p in iter_frames(path, every=every, fps=fps, times=times, indices=indices)]
    if len({picture.shape for picture in pictures}) > 1:
        raise ClipError(f"the frame size of {path} changes midway")
    frames = np.stack(pictures) if pictures else np.empty((0, 0, 0, 3), np.uint8)
    return frames if order is None else frames[order]


def iter_frames(
    path: str | Path,
    *,
    every: int | None = None,
    fps: float | None = None,
    times: Sequence[float] | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[Picture]:
    """Decode one by one, holding no more than two frames; exactly one of the four says which.

    Variable frame rates are respected: the frame for time t is the one on the screen at t.

    Args:
        path: A local file.
        every: Frames 0, k, 2k …
        fps: The frames on the screen at 0, 1/fps, 2/fps … until the end; a slow video repeats frames.
        times: Seconds after the first frame, ascending.
        indices: Frame numbers, ascending.

    Raises:
        ClipError: Not readable, cut off, or a frame asked for does not exist.
    """
    if sum(choice is not None for choice in (every, fps, times, indices)) != 1:
        raise TypeError("give exactly one of every, fps, times and indices")
    if indices is not None:
        yield from _by_index(path, indices)
    elif every is not None:
        yield from (_picture(shown) for shown in _shown(path) if shown.number % every == 0)
    else:
        yield from _by_time(
            path, times if times is not None else _ticks(float(fps or 0)), endless=times is None
        )


def duration(path: str | Path) -> float:
    """Return the seconds a file says it lasts, from its header alone; NaN when it does not say."""
    with _open(path) as container:
        return container.duration / 1e6 if container.duration else float("nan")


def _ticks(fps: float) -> Iterator[float]:
    tick = 0
    while True:
        yield tick / fps
        tick += 1


def _by_index(path: str | Path, indices: Iterable[int]) -> Iterator[Picture]:
    wanted = iter(indices)
    target = next(wanted, None)
    count = 0
    for shown in _shown(path):
        count = shown.number + 1
        if shown.number == target:
            yield _picture(shown)
            target = next(wanted, None)
        if target is None:
            return
    if target is not None:
        raise ClipError(f"{path} has {count} frames, there is no frame {target}")


def _by_time(path: str | Path, times: Iterable[float], *, endless: bool) -> Iterator[Picture]:
    wanted = iter(times)
    target = next(wanted, None)
    end = 0.0
    for shown in _shown(path):
        end = shown.end
        picture: Picture | None = None
        while target is not None and target < end - 1e-6:
            picture = picture or _picture(shown)
            yield picture
            target = next(wanted, None)
        if target is None:
            return
    if target is not None and not endless:
        raise ClipError(f"the video of {path} lasts {end:.3f} s, there is no frame at {target:.3f} s")


def _shown(path: str | Path) -> Iterator[_Shown]:
    """Yield every frame with the time it appears and the time the next one does."""
    with _open(path) as container:
        stream = cast("av.VideoStream", _stream(container, "video", path))
        stream.codec_context.thread_count = (
            1  # clips are decoded side by side; threads within one would only queue
        )
        nominal = float(1 / stream.average_rate) if stream.average_rate else 1 / 25
        origin: float | None = None
        index, start = -1, -nominal
        held: VideoFrame | None = None
        for frame in _decoded(container, stream, path):
            time = frame.time
            origin = time if origin is None and time is not None else origin
            begins = start + nominal if time is None or origin is None else time - origin
            begins = max(begins, start + 1e-6) if held is not None else 0.0
            if held is not None:
                yield _Shown(index, start, begins, held)
            held, start, index = frame, begins, index + 1
        if held is None:
            raise ClipError(f"the video stream of {path} holds no frames")
        lasts = float(held.duration * held.time_base) if held.duration and held.time_base else nominal
        yield _Shown(index, start, start + lasts, held)


def _picture(shown: _Shown) -> Picture:
    rgb = cast("NDArray[np.uint8]", shown.frame.to_ndarray(format="rgb24"))
    turns = round(shown.frame.rotation / 90) % 4  # phones store pictures lying down, with a note to turn them
    upright = np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
    return Picture(shown.number, shown.start, upright)


def _audio_pieces(
    container: "InputContainer", stream: "av.AudioStream", path: str | Path
) -> tuple[list[tuple[int, NDArray[np.float32]]], float]:
    """Return runs of mono samples, a new one where the sample rate changes, and the first sample's time."""
    runs: list[tuple[int, list[NDArray[np.float32]]]] = []
    first: float | None = None
    for frame in _decoded(container, stream, path):
        if first is None:
            first = frame.time or 0.0
        if not runs or runs[-1][0] != frame.sample_rate:
            runs.append((frame.sample_rate, []))
        runs[-1][1].append(_mono(frame))
    return [(rate, np.concatenate(chunks)) for rate, chunks in runs], first or 0.0


def _mono(frame: "AudioFrame") -> NDArray[np.float32]:
    kind = frame.format.name.removesuffix("p")
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scaled = samples.astype(np.float32)
    if kind == "u8":
        scaled -= 128
    if kind in _SCALE:
        scaled /= np.float32(_SCALE[kind])
    return np.asarray(scaled.mean(axis=0, dtype=np.float32) if len(scaled) > 1 else scaled[0])


def _resample(samples: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    if source == target:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, source, target), dtype=np.float32)


def _decoded(container: "InputContainer", stream: "Stream", path: str | Path) -> Iterator[Any]:
    """Decode a stream, forgiving a stray bad packet (a junk first frame is common) but not a damaged file.

    Packets of the other streams are looked at as well: a file is whole when any of them reaches its end.
    """
    good = bad = 0
    reached = 0.0
    for packet in _packets(container, path):
        if packet.pts is not None and packet.time_base:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        try:
            frames = packet.decode()
        except _errors():
            bad += 1
            continue
        good += 1
        yield from frames
    if bad > max(1, 0.02 * (good + bad)):
        raise ClipError(f"{path} is damaged: {bad} of {good + bad} {stream.type} packets cannot be decoded")
    _check_end(container, reached, path)


def _packets(container: "InputContainer", path: str | Path) -> Iterator[Any]:
    try:
        yield from container.demux([s for s in container.streams if s.type in ("audio", "video")])
    except _errors() as error:
        raise ClipError(f"{path} is damaged: {_why(error)}") from error


def _check_end(container: "InputContainer", reached: float, path: str | Path) -> None:
    """Refuse a file whose packets end well before its header says it does."""
    if "wav" in container.format.name:
        lacking = _lacking_bytes(Path(path))
        if lacking:
            raise ClipError(f"{path} is cut off: {lacking} bytes of sound are not there")
    elif container.duration and _exact(container):
        length = container.duration / 1e6
        there = reached - (container.start_time or 0) / 1e6
        if there < length - _slack(length):
            raise ClipError(f"{path} is cut off: {there:.2f} of {length:.2f} s are there")


def _exact(container: "InputContainer") -> bool:
    return bool(_EXACT_FORMATS & set(container.format.name.split(",")))


def _slack(seconds: float) -> float:
    """Return by how much a header may be wrong about a length (padding, edit lists, last frames)."""
    return max(0.2, 0.05 * seconds)


def _lacking_bytes(path: Path) -> int:
    """Return how many bytes a WAV header promises beyond the file's end; FFmpeg keeps quiet of them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                # Writers that do not know the length (pipes) leave the largest number or none.
                return 0 if length >= 0xFFFFF000 else max(0, length - (size - file.tell()))
            file.seek(length + length % 2, 1)
    return 0


@contextmanager
def _open(path: str | Path) -> "Iterator[InputContainer]":
    import av

    file = Path(path).absolute()
    if file.is_file() and file.stat().st_size == 0:
        raise ClipError(f"{path} is empty (0 bytes)")
    try:
        container = av.open(str(file), metadata_errors="replace")
    except FileNotFoundError as error:
        raise ClipError(f"there is no file {path}") from error
    except EOFError as error:
        raise ClipError(f"{path} is cut off within its header") from error
    except OSError as error:
        raise ClipError(f"{path} cannot be opened: {_why(error)}") from error
    except ValueError as error:  # PyAV's InvalidDataError is one
        raise ClipError(f"{path} is no media file, or cut off before its index: {_why(error)}") from error
    with container:
        yield container


def _stream(container: "InputContainer", kind: Literal["audio", "video"], path: str | Path) -> "Stream":
    from av.stream import Disposition

    for stream in container.streams:
        if stream.type == kind and not stream.disposition & Disposition.attached_pic:  # cover art is no video
            if stream.codec_context is None:
                raise ClipError(f"no decoder for the {kind} stream of {path}")
            return stream
    raise ClipError(f"no {kind} stream in {path}")


def _errors() -> tuple[type[Exception], ...]:
    import av

    return (av.FFmpegError, ValueError, RuntimeError)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
