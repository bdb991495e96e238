"""Short-time spectra in plain numpy: frames, mel bands, cepstra, deltas.

The mel scale and its area-normalised triangles are those of Slaney's Auditory Toolbox, as librosa and the
speech encoders use them.
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def frames_of(sound: Floats, length: int, hop: int) -> Floats:
    """Cut `[n]` into `[1 + n // hop, length]` (a view); frame t is centred on sample t * hop."""
    padded = np.pad(sound, (length // 2, length - length // 2))
    return sliding_window_view(padded, length)[: len(sound) + 1 : hop]


def power_spectrum(frames: Floats, n_fft: int) -> Floats:
    """Return `[T, 1 + n_fft // 2]` power of Hann-windowed frames."""
    window = np.hanning(frames.shape[-1] + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(frames * window, n_fft)
    return (spectrum.real**2 + spectrum.imag**2).astype(np.float32)


@cache
def mel_filters(rate: int, n_fft: int, bands: int, low: float = 0.0, high: float | None = None) -> Floats:
    """Return triangular filters `[1 + n_fft // 2, bands]`, each of unit area in Hz."""
    edges = _mel_to_hz(np.linspace(_hz_to_mel(low), _hz_to_mel(high or rate / 2), bands + 2))
    bins = np.arange(1 + n_fft // 2) * rate / n_fft
    rise = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])
    return np.asarray(filters, dtype=np.float32)


@cache
def dct_matrix(size: int, kept: int) -> Floats:
    """Return `[size, kept]`, by which `x [size]` is multiplied for its first coefficients of the DCT-II."""
    k, n = np.arange(kept), np.arange(size)[:, None]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * size)) * np.sqrt(2 / size)
    matrix[:, 0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float32)


def decibels(power: Floats, floor: float = 1e-10) -> Floats:
    """Return `10 log10(power)`, not below the floor."""
    return np.asarray(10 * np.log10(np.maximum(power, floor)), dtype=np.float32)


def deltas(contours: Floats, reach: int = 2) -> Floats:
    """Return the slope per frame of `[T, D]`, by regression over ±`reach` frames, edges repeated (as HTK)."""
    padded = np.pad(contours, ((reach, reach), (0, 0)), mode="edge")
    T = len(contours)
    steps = range(1, reach + 1)
    slope = sum(k * (padded[reach + k : reach + k + T] - padded[reach - k : reach - k + T]) for k in steps)
    return np.asarray(slope / (2 * sum(k * k for k in steps)), dtype=np.float32)


def _hz_to_mel(hz: float) -> float:
    return 15 + 27 / np.log(6.4) * float(np.log(hz / 1000)) if hz >= 1000 else 3 * hz / 200


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel >= 15, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)), 200 * mel / 3)
