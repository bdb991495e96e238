"""Damage to the media themselves: noisy copies of a sound or a film, or copies of which a part is blanked.

A copy holds all samples, or all pictures at the times they had; nothing is cut out or moved. These
definitions are ours (*reconstructed*; the papers report no such experiment).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_plugins.media import RATE, iter_frames, read_audio
from mer_zoo.errors import ZooError

_TICKS = 90_000  # a second, so that every frame stays where it was

Sound = NDArray[np.float64]
Pixels = NDArray[np.uint8]


class Damage(ABC):
    """What is done to a sound or a film."""

    @abstractmethod
    def to_sound(self, sound: Sound, rng: np.random.Generator) -> Sound:
        """Return a damaged sound `[n]` at 16 kHz."""

    @abstractmethod
    def to_film(self, path: str, rng: np.random.Generator) -> Callable[[float, Pixels], Pixels]:
        """Return what turns each picture of a film, at its time in seconds, into a damaged one."""


@dataclass(frozen=True)
class Noise(Damage):
    """White noise.

    Attributes:
        snr: Mean power of the sound, or variance of all pixels of the film, over that of the noise, in dB;
            infinite adds none.
    """

    snr: float

    def to_sound(self, sound: Sound, rng: np.random.Generator) -> Sound:
        """Add noise; what is too loud for a file is turned down."""
        scale = float(np.sqrt(np.mean(sound**2))) * 10 ** (-self.snr / 20)
        mixed: Sound = sound + rng.normal(0, 1, len(sound)) * scale
        return mixed / max(1.0, float(np.abs(mixed).max(initial=0.0)))

    def to_film(self, path: str, rng: np.random.Generator) -> Callable[[float, Pixels], Pixels]:
        """Add noise to every pixel and colour on its own."""
        scale = _deviation(path) * 10 ** (-self.snr / 20)

        def mixed(_: float, rgb: Pixels) -> Pixels:
            noise = rng.normal(0, 1, rgb.shape) * scale
            return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)

        return mixed


@dataclass(frozen=True)
class Blank(Damage):
    """Silence, or black, during stretches of equal length at random places that do not overlap.

    Attributes:
        share: Of the time; 1 leaves nothing.
        stretches: How many.
        patch: Share of the picture's area that is black: a rectangle of the picture's shape, at a random
            place that stays the same throughout; 1 is the whole picture. A sound is silent or not.

    Raises:
        ZooError: A share outside 0 to 1, or fewer stretches than one.
    """

    share: float
    stretches: int = 1
    patch: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 < self.patch <= 1) or self.stretches < 1:
            raise ZooError(
                f"{self.stretches} stretches, {self.share:g} of the time, {self.patch:g} of the picture",
                "use 1 stretch or more, and shares above 0, at most 1",
            )

    def to_sound(self, sound: Sound, rng: np.random.Generator) -> Sound:
        """Silence the stretches, to the sample."""
        silent = sound.copy()
        for start, end in self._drawn(len(sound), rng):
            silent[round(start) : round(end)] = 0
        return silent

    def to_film(self, path: str, rng: np.random.Generator) -> Callable[[float, Pixels], Pixels]:
        """Blacken the pictures whose middle lies in a stretch; each counts as long as the mean one."""
        times = [picture.time for picture in iter_frames(path, every=1)]
        long = times[-1] / (len(times) - 1) if len(times) > 1 else 1.0
        dark, corner = self._drawn(times[-1] + long, rng), rng.random(2)

        def blackened(time: float, rgb: Pixels) -> Pixels:
            if not any(start <= time + long / 2 < stop for start, stop in dark):
                return rgb
            height, width = (round(side * self.patch**0.5) for side in rgb.shape[:2])
            top = round(corner[0] * (rgb.shape[0] - height))
            left = round(corner[1] * (rgb.shape[1] - width))
            black = rgb.copy()
            black[top : top + height, left : left + width] = 0
            return black

        return blackened

    def _drawn(self, length: float, rng: np.random.Generator) -> list[tuple[float, float]]:
        """Return start and end of each stretch in `length`; every placement is as likely as any other."""
        each = self.share * length / self.stretches
        free = np.sort(rng.uniform(0, length * (1 - self.share), self.stretches))
        return [(float(at) + i * each, float(at) + (i + 1) * each) for i, at in enumerate(free)]


def damaged_sound(path: str, to: Path, damage: Damage, seed: int) -> Path:
    """Write the sound of a file as mono 16-bit WAV at 16 kHz, damaged.

    Args:
        path: A file with an audio stream.
        to: Where to.
        damage: What is done to it.
        seed: Decides noise and places.

    Raises:
        ClipError: Not readable.
    """
    import wave

    made = damage.to_sound(read_audio(path).astype(np.float64), np.random.default_rng(seed))
    with wave.open(str(to), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(made, -1, 1) * 32767).round().astype("<i2").tobytes())
    return to


def damaged_film(path: str, to: Path, damage: Damage, seed: int) -> Path:
    """Write the pictures of a file without loss (FFV1 in Matroska), damaged, at the times they had.

    Args:
        path: A file with a video stream.
        to: Where to; `.mkv`.
        damage: What is done to them.
        seed: Decides noise and places.

    Raises:
        ClipError: Not readable.
    """
    import av

    change = damage.to_film(path, np.random.default_rng(seed))
    with av.open(str(to), "w") as container:
        stream = container.add_stream("ffv1", rate=_TICKS)
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for picture in iter_frames(path, every=1):
            if not picture.number:
                stream.height, stream.width = picture.rgb.shape[:2]
            frame = av.VideoFrame.from_ndarray(change(picture.time, picture.rgb), format="rgb24")
            frame.pts, frame.time_base = round(picture.time * _TICKS), Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return to


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
