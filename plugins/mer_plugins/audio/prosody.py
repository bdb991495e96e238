"""`prosody`: pitch, voicing, loudness, timbre and cepstra every 10 ms; no weights needed.

Frames hold the contours, their deltas and delta-deltas. The utterance's row is, by default, a set of
functionals in the spirit of eGeMAPS (Eyben et al. 2016): pitch over voiced frames only, timbre over the
frames that are not silence, and how voicing is spread over time.

Spectra, mel bands, cepstra, deltas, centroid, flatness are librosa's; F0 is from `mer_plugins.audio.pitch`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.audio.pitch import Floats, track_pitch
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.media import RATE, read_audio
from mer_plugins.pooling import POOLINGS
from mer_plugins.settings import Settings

HOP, WINDOW, N_FFT, BANDS = 160, 400, 512, 40
F0_REFERENCE = 27.5  # Hz; semitones are counted from here, as in eGeMAPS
SOURCE = ("f0", "voicing", "energy", "centroid", "flatness")  # contours before the spectral ones
_SILENCE_DB = 40.0  # below the clip's loudest frame
_PERCENTILES = (20, 50, 80)

OPTIONS = {
    "spectrum": ("mfcc", "mfcc (13 cepstra) or logmel (40 bands)"),
    "deltas": ("2", "orders of time derivatives beside the contours: 0, 1 or 2"),
    "f0": ("60-500", "range of F0 in Hz"),
    "pool": ("functionals", "utterance level: functionals, mean, mean-std or max"),
}


class Prosody(Extractor[Floats]):
    """Rows of `5 + 13` (MFCC) or `5 + 40` (log-mel) contours, times one plus the orders of deltas.

    A contour row is: F0 in semitones above 27.5 Hz (0 where unvoiced), voicing strength [0, 1], energy (dB),
    spectral centroid (kHz), spectral flatness (dB), then MFCC 1 to 13 or log-mel bands (dB).
    """

    frame_hz = RATE / HOP
    batch_cost = 64.0

    def __init__(self, options: Options) -> None:
        say = Settings(OPTIONS, options)
        self.spectrum = say.choice("spectrum", ("mfcc", "logmel"))
        self.orders = say.integer("deltas", 0, 2)
        self.f0 = say.span("f0", 30, 1000)
        self.pooling = say.choice("pool", ("functionals", *POOLINGS))
        self.contours = len(SOURCE) + (13 if self.spectrum == "mfcc" else BANDS)
        self.row_shape = (self.contours * (1 + self.orders),)

    def made_by(self) -> Mapping[str, Any]:
        """Return the settings."""
        return {
            "spectrum": self.spectrum,
            "deltas": self.orders,
            "f0_hz": list(self.f0),
            "audio": {"rate": RATE, "hop": HOP, "window": WINDOW},
        }

    def load(self) -> None:
        """Import librosa's modules, which come when first used, before the worker threads ask for them."""
        self.analyse(np.zeros(HOP, np.float32))

    def prepare(self, clip: Clip) -> Floats:
        """Decode and analyse: numpy lets go of the interpreter lock, so the worker threads share the work."""
        if clip.audio is None:
            raise ClipError(f"clip {clip.key} has no audio")
        return self.analyse(read_audio(clip.audio))

    def seconds(self, prepared: Floats) -> float:
        """Return the clip's seconds."""
        return len(prepared) * HOP / RATE

    def encode(self, batch: Sequence[Floats]) -> list[Floats]:
        """Return the rows that `prepare` made."""
        return list(batch)

    def analyse(self, sound: Floats) -> Floats:
        """Return `[1 + n // 160, D]` float32 rows of 16 kHz mono float32 `[n]`."""
        import librosa

        power = power_spectrum(sound)
        f0, voicing = track_pitch(sound, RATE, HOP, *map(float, self.f0))
        semitones = np.where(f0 > 0, 12 * np.log2(np.maximum(f0, 1) / F0_REFERENCE), 0)
        shape = decibels(mel_filters() @ power)
        if self.spectrum == "mfcc":
            shape = librosa.feature.mfcc(S=shape, n_mfcc=14)[1:]
        centroid = librosa.feature.spectral_centroid(S=power, sr=RATE) / 1000
        flatness = decibels(librosa.feature.spectral_flatness(S=power, power=1.0))
        contours = np.vstack([semitones, voicing, decibels(power.mean(axis=0)), centroid, flatness, shape])
        rows = [np.ascontiguousarray(contours.T, dtype=np.float32)]
        for _ in range(self.orders):
            rows.append(deltas(rows[-1]))
        return np.concatenate(rows, axis=1)

    def pool(self, rows: Floats) -> Floats:
        """Return the functionals, or the plain pooling that was asked for."""
        return functionals(rows, self.contours) if self.pooling == "functionals" else super().pool(rows)

    @property
    def utt_shape(self) -> tuple[int, ...]:
        """Shape of the utterance's row."""
        if self.pooling != "functionals":
            return super().utt_shape
        return functionals(np.zeros((1, *self.row_shape), np.float32), self.contours).shape


def functionals(rows: Floats, contours: int) -> Floats:
    """Return one row of an utterance's `[T, D]`, whose first `contours` columns are contours, F0 first.

    Per contour: mean, standard deviation, 20th, 50th and 80th percentile; per delta: mean magnitude and
    standard deviation; F0 over voiced frames, the rest over frames within 40 dB of the loudest. Then: share
    of voiced and of silent frames, voiced stretches a second, mean and standard deviation of their seconds.
    """
    voiced = rows[:, 0] > 0
    sounding = rows[:, 2] > rows[:, 2].max() - _SILENCE_DB
    parts: list[NDArray[Any]] = []
    for columns, frames in ((slice(0, 1), voiced), (slice(1, contours), sounding)):
        kept = (
            rows[frames, columns] if frames.any() else np.zeros((1, rows[:1, columns].shape[1]), np.float32)
        )
        parts += [kept.mean(axis=0, dtype=np.float64), kept.std(axis=0, dtype=np.float64)]
        parts += list(np.percentile(kept, _PERCENTILES, axis=0))
    if rows.shape[1] > contours:
        moving = rows[sounding, contours:]
        parts += [np.abs(moving).mean(axis=0, dtype=np.float64), moving.std(axis=0, dtype=np.float64)]
    return np.concatenate([*parts, _rhythm(voiced, sounding)]).astype(np.float32)


def _rhythm(voiced: NDArray[np.bool_], sounding: NDArray[np.bool_]) -> NDArray[np.float64]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(np.int8)))
    lengths = (edges[1::2] - edges[::2]) * HOP / RATE
    spread = (lengths.mean(), lengths.std()) if len(lengths) else (0.0, 0.0)
    rate = len(lengths) / (len(voiced) * HOP / RATE)
    return np.array([voiced.mean(), 1 - sounding.mean(), rate, *spread])


def power_spectrum(sound: Floats) -> Floats:
    """Return the power `[257, 1 + n // 160]` of 25 ms Hann windows; frame t is centred on sample t * 160."""
    import librosa

    # Padded here, since librosa warns of clips shorter than its window when it pads.
    padded = np.pad(sound, N_FFT // 2)
    spectrum = librosa.stft(padded, n_fft=N_FFT, hop_length=HOP, win_length=WINDOW, center=False)
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float32)


@cache
def mel_filters() -> Floats:
    """Return 40 triangles `[40, 257]` from 20 Hz on Slaney's scale, each of unit area."""
    import librosa

    return np.asarray(librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=BANDS, fmin=20.0), dtype=np.float32)


def decibels(power: Floats) -> Floats:
    """Return `10 log10(power)`, not below -100 dB."""
    import librosa

    return np.asarray(librosa.power_to_db(power, amin=1e-10, top_db=None), dtype=np.float32)


def deltas(contours: Floats) -> Floats:
    """Return the slope per frame of `[T, D]`, by regression over ±2 frames, edges repeated (as HTK)."""
    import librosa

    return np.asarray(librosa.feature.delta(contours, width=5, axis=0, mode="nearest"), dtype=np.float32)


CARDS = (
    ExtractorCard(
        name="prosody",
        modality="audio",
        levels=("utt", "frame"),
        summary="pitch, voicing, energy and MFCC contours every 10 ms; no weights",
        build=Prosody,
        requires=("librosa",),
        install="pip install 'mer-fs[audio]'",
        options=OPTIONS,
    ),
)
