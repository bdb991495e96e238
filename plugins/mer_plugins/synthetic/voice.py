"""A small source-filter synthesiser: glottal pulses and noise through moving formants, spoken from letters.

Intelligible it is not; it babbles the syllables of the line with the speaker's voice and the clip's prosody.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_plugins.synthetic.acting import Voice

RATE = 16_000
_STEP = 80  # samples between two settings of the filter: 5 ms

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Throat:
    """What a speaker's voice is made of.

    Attributes:
        pitch: Usual F0, Hz.
        span: Usual pitch range, semitones up and down.
        tract: Formant frequencies relative to the table; above 1 is a shorter vocal tract.
        tempo: Usual speaking rate, log2 of the table's.
        breath: Usual aspiration noise, 0 to 1.
    """

    pitch: float
    span: float
    tract: float
    tempo: float
    breath: float


def cast_throat(rng: np.random.Generator) -> Throat:
    """Draw a speaker's voice; high voices come from shorter tracts."""
    high = rng.random() < 0.5
    pitch = 2 ** rng.normal(np.log2(190 if high else 120), 0.09)
    tract = rng.normal(1.14 if high else 0.98, 0.04)
    return Throat(pitch, rng.uniform(1.5, 2.5), tract, rng.normal(0, 0.08), rng.uniform(0, 0.15))


@dataclass(frozen=True, slots=True)
class _Phone:
    """A sound: seconds, formants (Hz), how loud its voice and its hiss are, and where the hiss lies (Hz)."""

    seconds: float
    formants: tuple[float, float, float] = (500, 1500, 2500)
    voice: float = 0.0
    hiss: float = 0.0
    hiss_at: float = 4000.0


_VOWELS = {
    "a": (730, 1250, 2450), "e": (530, 1840, 2480), "i": (400, 2000, 2600), "o": (570, 840, 2410),
    "u": (620, 1190, 2390), "y": (330, 2200, 2900), "ee": (290, 2280, 3000), "ea": (290, 2280, 3000),
    "oo": (320, 870, 2240), "ou": (440, 1020, 2240), "ow": (600, 950, 2350), "ai": (560, 1950, 2600),
    "ay": (560, 1950, 2600), "oi": (500, 1100, 2400), "ie": (350, 2100, 2800), "au": (590, 880, 2540),
}  # fmt: skip
_SONORANTS = {
    "m": (250, 1100, 2200), "n": (250, 1500, 2400), "l": (360, 1100, 2600), "r": (350, 1200, 1600),
    "w": (300, 700, 2200),
}  # fmt: skip
_STOPS = {"p": 1200.0, "t": 4200.0, "k": 2300.0, "c": 2300.0, "q": 2300.0}
_VOICED_STOPS = {"b": 900.0, "d": 3800.0, "g": 2000.0, "j": 3000.0}
_HISSES = {
    "s": (5200.0, 0.5),
    "f": (4500.0, 0.18),
    "h": (1500.0, 0.2),
    "x": (4800.0, 0.4),
    "z": (5200.0, 0.3),
}
_UNITS = re.compile(r"ee|ea|oo|ou|ow|ai|ay|oi|ie|au|sh|th|ch|[a-z]|[,.!?]+|\s+")


def speak(line: str, voice: Voice, throat: Throat, rng: np.random.Generator) -> tuple[Array, Array]:
    """Say a line.

    Returns:
        The sound, float64 `[n]` at 16 kHz within ±1, and how far the mouth is open, float64 in [0, 1] at
        200 Hz (`n // 80` values), for the face to move with.
    """
    phones = _spell(line)
    rate = 1.3 * 2 ** (voice.tempo + throat.tempo)
    steps = [max(2, round(p.seconds / rate * rng.uniform(0.88, 1.12) * RATE / _STEP)) for p in phones]

    def track(values: list[float], smooth: int) -> Array:
        return _smooth(np.repeat(np.asarray(values, dtype=np.float64), steps), smooth)

    loud = track([p.voice for p in phones], 7)
    hiss = track([p.hiss for p in phones], 3)
    formants = np.stack([track([p.formants[i] for p in phones], 11) for i in range(3)], axis=1) * throat.tract
    pitch = _pitch(phones, steps, voice, throat, rng)
    source = _glottis(pitch, loud, voice, throat, rng)
    sound = _filter(source, formants, throat.tract)
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    sound += _frication(np.repeat([p.hiss_at for p in phones], steps), hiss, rng)
    opening = np.clip(loud * (formants[:, 0] / throat.tract) / 650, 0, 1)
    return _record(sound, voice, rng), opening


def _spell(line: str) -> list[_Phone]:
    """Turn letters into sounds; silence at both ends."""
    phones = [_Phone(0.12)]
    for unit in _UNITS.findall(line.lower()):
        if unit in _VOWELS:
            phones.append(_Phone(0.115 if len(unit) == 1 else 0.15, _VOWELS[unit], voice=1.0))
        elif unit in _SONORANTS:
            phones.append(_Phone(0.06, _SONORANTS[unit], voice=0.45))
        elif unit in _STOPS:
            phones += [_Phone(0.04), _Phone(0.02, hiss=0.35, hiss_at=_STOPS[unit])]
        elif unit in _VOICED_STOPS:
            phones += [
                _Phone(0.035, voice=0.15),
                _Phone(0.012, hiss=0.12, voice=0.3, hiss_at=_VOICED_STOPS[unit]),
            ]
        elif unit in _HISSES or unit in {"sh", "th", "ch", "v"}:
            at, loud = _HISSES.get(unit, (2800.0 if unit in {"sh", "ch"} else 4500.0, 0.25))
            phones.append(_Phone(0.075, hiss=loud, hiss_at=at, voice=0.25 if unit in {"z", "v"} else 0.0))
        elif unit[0] in ",.!?":
            phones.append(_Phone(0.09))
    return [*phones, _Phone(0.14)]


def _pitch(
    phones: list[_Phone], steps: list[int], voice: Voice, throat: Throat, rng: np.random.Generator
) -> Array:
    """F0 in Hz per step: declination, an accent on every third vowel or so, the final movement, tremor."""
    span = throat.span * 2**voice.span
    vowels = [i for i, p in enumerate(phones) if p.voice == 1.0]
    accents = np.zeros(len(phones))
    for n, i in enumerate(vowels):
        accents[i] = span * (rng.uniform(0.6, 1.3) if n % 3 == 0 else rng.uniform(-0.5, 0.3))
    if vowels:
        accents[vowels[-1] :] = voice.final
    contour = _smooth(np.repeat(accents, steps), 21)
    time = np.arange(len(contour)) * _STEP / RATE
    contour += np.linspace(0.3, -0.5, len(contour)) * span
    contour += voice.tremor * np.sin(2 * np.pi * 5.5 * time + rng.uniform(0, 6))
    return np.asarray(throat.pitch * 2 ** ((contour + voice.level) / 12))


def _glottis(pitch: Array, loud: Array, voice: Voice, throat: Throat, rng: np.random.Generator) -> Array:
    """The source: Rosenberg's glottal flow, differentiated, with jitter, shimmer and breath."""
    from scipy.signal import lfilter

    jitter = np.clip(voice.jitter, 0, 1)
    wander = _smooth(rng.standard_normal(len(pitch)), 2) * 0.035 * jitter
    cycles = np.cumsum(_upsample(pitch * (1 + wander)) / RATE)
    phase = cycles % 1.0
    opens, closes = 0.42 - 0.06 * voice.bright, 0.16 - 0.05 * np.clip(voice.bright, -1, 1)
    flow = np.where(
        phase < opens,
        0.5 * (1 - np.cos(np.pi * phase / opens)),
        np.cos(np.pi / 2 * np.clip((phase - opens) / closes, 0, 1)),
    )
    shimmer = 1 + 0.25 * jitter * rng.standard_normal(int(cycles[-1]) + 2)
    breath = np.clip(voice.breath + throat.breath, 0, 1) * 0.28 * rng.standard_normal(len(flow))
    pulses = np.diff(flow, prepend=0.0) * shimmer[cycles.astype(int)] * 6 + breath * (0.3 + flow)
    dull = np.clip(0.35 - 0.4 * voice.bright, 0.0, 0.8)
    return np.asarray(lfilter([1 - dull], [1, -dull], pulses)) * _upsample(loud)


def _filter(source: Array, formants: Array, tract: float) -> Array:
    """Five resonators in cascade (Klatt's), set anew every 5 ms with their state carried over."""
    from scipy.signal import lfilter

    widths = np.array([70, 90, 130, 200, 260])
    fixed = np.broadcast_to(np.array([3500, 4500]) * tract, (len(formants), 2))
    centres = np.minimum(np.concatenate([formants, fixed], axis=1), 7400)
    radius = np.exp(-np.pi * widths / RATE)
    b = -2 * radius * np.cos(2 * np.pi * centres / RATE)
    c = radius**2
    poles = np.zeros((len(formants), 11))
    poles[:, 0] = 1
    for i in range(5):  # one lfilter of order 10 is five times as fast as five sections of order 2
        poles[:, 2:] += b[:, i, None] * poles[:, 1:-1] + c[i] * poles[:, :-2]
        poles[:, 1] += b[:, i]
    gain = poles.sum(axis=1, keepdims=True)  # 1 at 0 Hz
    state = np.zeros(10)
    out = np.empty_like(source)
    for i in range(len(formants)):
        part = slice(i * _STEP, (i + 1) * _STEP)
        out[part], state = lfilter(gain[i], poles[i], source[part], zi=state)
    return out


def _frication(at: Array, loud: Array, rng: np.random.Generator) -> Array:
    """Hiss of fricatives and bursts: noise modulated up to where it lies."""
    noise = _smooth(rng.standard_normal(len(at) * _STEP), 6) * 2.5
    carrier = np.cos(2 * np.pi * np.cumsum(_upsample(at)) / RATE)
    return np.asarray(noise * carrier * _upsample(loud))


def _record(sound: Array, voice: Voice, rng: np.random.Generator) -> Array:
    """A microphone somewhere in a room: level, the room's own noise, no hard clipping."""
    from scipy.signal import lfilter

    gain = 0.06 * 10 ** ((voice.energy + rng.normal(0, 1.5)) / 20)
    room = lfilter([0.3], [1, -0.85], rng.standard_normal(len(sound))) * 10 ** (rng.uniform(-58, -44) / 20)
    return np.asarray(np.tanh(sound * gain + room))


def _smooth(values: Array, width: int) -> Array:
    """A moving average that keeps length and ends."""
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    total = np.cumsum(np.concatenate([[0.0], padded]))
    return np.asarray((total[width:] - total[:-width]) / width)


def _upsample(steps: Array) -> Array:
    """From one value per 5 ms to one per sample."""
    n = len(steps)
    return np.interp(np.arange(n * _STEP) / _STEP, np.arange(n), steps)
