"""How each emotion sounds and looks, what each channel confuses, and how plainly a clip shows it.

The tables are caricatures in the direction the literature describes (raised pitch and energy in arousal,
inner brows up in sadness and worry …), invented for this corpus; nobody was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@dataclass(frozen=True, slots=True)
class Voice:
    """Prosody of one clip, relative to its speaker.

    Attributes:
        level: Mean pitch, semitones.
        span: Pitch range, octaves of change (0 = the speaker's own, 1 = twice as wide).
        final: Where the pitch goes on the last syllable, semitones.
        tempo: Speaking rate, log2.
        energy: Loudness, dB.
        bright: Spectral tilt, -1 (dull) to 1 (pressed).
        breath: Aspiration noise, 0 to 1.
        jitter: Irregularity from period to period, 0 to 1.
        tremor: A slow quaver of the pitch, semitones.
    """

    level: float
    span: float
    final: float
    tempo: float
    energy: float
    bright: float
    breath: float
    jitter: float
    tremor: float


@dataclass(frozen=True, slots=True)
class Face:
    """Expression of one clip at its height; 0 is a face at rest, most run from -1 to 1.

    Attributes:
        corner: Mouth corners, up is positive.
        open: Mouth opening besides speech.
        wide: Mouth width; negative is round.
        brow: Both brows, up is positive.
        inner: Inner ends of the brows, up is positive, a frown negative.
        lid: Upper lids, wide open is positive.
        squint: Lower lids, raised is positive.
        gaze: Where the eyes rest, down is positive.
        dart: How much the eyes wander.
        tilt: Head to one side.
        nod: How lively the head moves.
    """

    corner: float
    open: float
    wide: float
    brow: float
    inner: float
    lid: float
    squint: float
    gaze: float
    dart: float
    tilt: float
    nod: float


# Rows: the emotions in order. Columns: those of Voice. Angry, happy and surprise lie close together.
_VOICE = np.array(
    [
        # level  span final tempo energy bright breath jitter tremor
        [0.0, 0.0, -1.5, 0.00, 0.0, 0.0, 0.10, 0.10, 0.00],
        [3.2, 0.7, -2.0, 0.22, 6.5, 0.9, 0.05, 0.35, 0.00],
        [4.2, 1.0, 0.5, 0.15, 3.5, 0.5, 0.15, 0.10, 0.00],
        [-2.2, -0.7, -3.0, -0.35, -5.5, -0.8, 0.50, 0.25, 0.10],
        [1.4, -0.2, 0.5, 0.10, -2.5, -0.3, 0.40, 0.40, 0.90],
        [5.4, 1.2, 4.0, 0.00, 3.0, 0.3, 0.25, 0.15, 0.00],
    ]
)
_VOICE_SPREAD = np.array([1.0, 0.25, 1.2, 0.09, 1.7, 0.25, 0.08, 0.08, 0.15])

# Rows: the emotions in order. Columns: those of Face. Sad and worried differ in little.
_FACE = np.array(
    [
        # corner open wide brow inner lid squint gaze dart tilt nod
        [0.05, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0, 0.15, 0.0, 0.2],
        [-0.45, 0.10, -0.05, -0.80, -0.90, 0.15, 0.55, 0.0, 0.05, 0.0, 0.6],
        [1.00, 0.30, 0.60, 0.20, 0.05, -0.05, 0.60, 0.0, 0.10, 0.2, 0.5],
        [-0.80, 0.00, -0.15, 0.05, 0.90, -0.50, 0.10, 0.6, 0.05, 0.5, 0.1],
        [-0.45, 0.10, 0.15, 0.30, 0.85, 0.15, 0.10, 0.1, 0.90, 0.2, 0.4],
        [0.05, 0.85, -0.70, 1.00, 0.15, 0.95, 0.00, 0.0, 0.05, 0.0, 0.3],
    ]
)
_FACE_SPREAD = np.array([0.18, 0.10, 0.14, 0.18, 0.18, 0.16, 0.12, 0.18, 0.15, 0.4, 0.15])

# Which other emotions a channel takes an emotion for, when it is not plain.
_HEARD_AS: Mapping[str, tuple[str, ...]] = {
    "neutral": ("worried", "sad"),
    "angry": ("happy", "surprise"),
    "happy": ("surprise", "angry"),
    "sad": ("neutral", "worried"),
    "worried": ("neutral", "sad"),
    "surprise": ("happy", "angry"),
}
_SEEN_AS: Mapping[str, tuple[str, ...]] = {
    "neutral": ("sad", "angry"),
    "angry": ("neutral", "worried"),
    "happy": ("neutral", "surprise"),
    "sad": ("worried", "worried", "neutral"),
    "worried": ("sad", "sad", "surprise"),
    "surprise": ("happy", "worried"),
}
_FLAT, _MIXED = 0.13, 0.24  # shares of clips whose channel shows next to nothing, or half another emotion


def act_voice(emotion: str, rng: np.random.Generator) -> Voice:
    """Draw the prosody of one clip."""
    return Voice(*_act(_VOICE, _VOICE_SPREAD, _HEARD_AS, emotion, rng))


def act_face(emotion: str, rng: np.random.Generator) -> Face:
    """Draw the expression of one clip."""
    return Face(*_act(_FACE, _FACE_SPREAD, _SEEN_AS, emotion, rng))


def plain_voice(emotion: str, intensity: float = 1.0) -> Voice:
    """Return the prosody of an emotion without any noise, `intensity` of the way from neutral."""
    return Voice(*_between(_VOICE, emotion, intensity))


def plain_face(emotion: str, intensity: float = 1.0) -> Face:
    """Return the expression of an emotion without any noise, `intensity` of the way from neutral."""
    return Face(*_between(_FACE, emotion, intensity))


def _between(table: NDArray[np.float64], emotion: str, intensity: float) -> list[float]:
    row = table[EMOTIONS.index(emotion)]
    values: list[float] = (table[0] + intensity * (row - table[0])).tolist()
    return values


def _act(
    table: NDArray[np.float64],
    spread: NDArray[np.float64],
    confused: Mapping[str, tuple[str, ...]],
    emotion: str,
    rng: np.random.Generator,
) -> list[float]:
    shown = table[EMOTIONS.index(emotion)]
    draw = rng.random()
    if draw < _FLAT:
        intensity = rng.uniform(0.0, 0.25)
    elif draw < _FLAT + _MIXED:
        other = table[EMOTIONS.index(str(rng.choice(confused[emotion])))]
        shown = shown + rng.uniform(0.35, 0.6) * (other - shown)
        intensity = rng.uniform(0.7, 1.0)
    else:
        intensity = rng.uniform(0.75, 1.15)
    values = table[0] + intensity * (shown - table[0]) + spread * rng.standard_normal(len(spread))
    acted: list[float] = values.tolist()
    return acted
