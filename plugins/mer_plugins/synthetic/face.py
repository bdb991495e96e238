"""A drawn face that moves: mouth, brows, eyes and head, from an expression and the sound of the voice."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from mer_plugins.synthetic.acting import Face
from mer_plugins.synthetic.looks import (
    CANVAS,
    UNIT,
    Array,
    Image,
    Look,
    comb,
    ellipse,
    fill,
    head,
    mix,
    room,
    shade,
    stroke,
)

SIZE = 128  # pixels a side of a frame
FPS = 10

_X = np.linspace(-1, 1, 25)  # from corner to corner of a mouth or an eye
_BOW = 1 - _X**2


def film(
    look: Look, face: Face, opening: Array, seconds: float, rng: np.random.Generator, *, absent: bool = False
) -> Iterator[Image]:
    """Draw a clip.

    Args:
        look: Who it is.
        face: The expression at its height.
        opening: How far speech opens the mouth, [0, 1] at 200 Hz.
        seconds: How long the clip is.
        rng: Everything else: the room, the light, head motion, blinks, when the expression comes.
        absent: Whether only the empty chair is to be seen.

    Yields:
        RGB frames, uint8 `[128, 128, 3]`, 10 a second.
    """
    behind = room(look, rng, absent=absent)
    times = np.arange(max(1, round(seconds * FPS))) / FPS
    tints = (rng.uniform(0.86, 1.06) * (1 + rng.normal(0, 0.02, 3))).astype(np.float32)
    onset, hold = rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.0)
    spoken = np.interp(times, np.arange(len(opening)) / 200, opening, right=0.0)
    blinks = rng.uniform(0, 3.0, 2)
    eyes = _wander(times, 1.3, rng) * face.dart
    sway = _sway(times, face, rng)
    grain = rng.standard_normal((2 * SIZE, 2 * SIZE, 1), np.float32) * np.float32(rng.uniform(1.0, 3.0))
    for i, time in enumerate(times):
        shown = _ease((time - onset) / 0.3) * (1 - (1 - hold) * _ease((time - seconds * 0.7) / 0.4))
        now = _scaled(face, shown)
        closed = max(_blink(time - b) for b in blinks)
        frame = behind
        if not absent:
            drawn = draw_head(look, now, spoken[i], closed, float(eyes[i]))
            frame = _place(drawn, head(look)[1], behind, sway[i])
        corner = rng.integers(0, SIZE, 2)
        frame = frame * tints + grain[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE]
        yield np.clip(frame, 0, 255).astype(np.uint8)


def draw_head(look: Look, face: Face, spoken: float = 0.0, closed: float = 0.0, aside: float = 0.0) -> Image:
    """Draw a head, uint8 `[256, 256, 3]`: expression, speech opening, blink in [0, 1], glance in [-1, 1]."""
    image = head(look)[0].copy()
    _furrows(image, look, face)
    comb(image, look)
    for side in (-1, 1):
        _eye(image, look, face, side, closed, aside)
        _brow(image, look, face, side)
    _nose(image, look)
    _mouth(image, look, face, spoken)
    if look.glasses:
        for side in (-1, 1):
            stroke(image, ellipse(side * look.eye_gap, -0.12, 0.26, 0.21), (52, 46, 50), 3)
        stroke(image, [[-look.eye_gap + 0.26, -0.14], [look.eye_gap - 0.26, -0.14]], (52, 46, 50), 3)
    return image


def _mouth(image: Image, look: Look, face: Face, spoken: float) -> None:
    corner, wide = np.clip([face.corner, face.wide], -1.2, 1.2)
    gape = float(np.clip(face.open, 0, 1.1) + 0.5 * spoken * (1 - 0.6 * np.clip(face.open, 0, 1)))
    half = look.mouth * (1 + 0.32 * wide + 0.14 * max(corner, 0) - 0.1 * spoken)
    middle = 0.5 + 0.04 * corner - 0.13 * corner * _X**2
    bow = np.sqrt(_BOW) if wide < -0.2 else _BOW ** (0.75 if corner > 0 else 0.6)
    roundness = float(np.clip(-wide, 0, 1))
    upper, lower = (
        middle - (0.07 + 0.11 * roundness) * gape * bow,
        middle + (0.25 - 0.03 * roundness) * gape * bow,
    )
    x = half * _X
    cupid = 0.052 * (_BOW**0.6) * (1 - 0.25 * np.exp(-((_X / 0.18) ** 2)))
    lips = np.concatenate(
        [np.stack([x, upper - cupid], 1), np.stack([x, lower + 0.075 * _BOW**0.7], 1)[::-1]]
    )
    fill(image, lips, look.lips)
    stroke(image, np.stack([x * 0.7, lower + 0.085 * _BOW**0.7], 1), shade(look.skin, 0.78), 2)
    if gape > 0.06:
        fill(
            image,
            np.concatenate([np.stack([x * 0.94, upper], 1), np.stack([x * 0.94, lower], 1)[::-1]]),
            (70, 22, 28),
        )
        show = 0.08 * (1 - 0.7 * roundness) * np.clip((gape - 0.12) / 0.1, 0, 1)
        teeth = np.minimum(lower - upper, show * _BOW**0.5)
        fill(
            image,
            np.concatenate([np.stack([x * 0.9, upper], 1), np.stack([x * 0.9, upper + teeth], 1)[::-1]]),
            (246, 243, 236),
        )
        if gape > 0.35:
            depth = lower - 0.35 * (lower - upper)
            inside = np.abs(_X) < 0.62
            fill(
                image,
                np.concatenate(
                    [np.stack([x, depth], 1)[inside], np.stack([x, lower - 0.01], 1)[inside][::-1]]
                ),
                (196, 88, 92),
            )
    else:
        stroke(image, np.stack([x, middle], 1), shade(look.lips, 0.52), 3)
    for side in (-1, 1):
        x0, y0 = side * half * 1.02, middle[0]
        stroke(image, [[x0, y0], [x0 + side * 0.03, y0 - 0.03 * corner]], shade(look.skin, 0.6), 2)


def _eye(image: Image, look: Look, face: Face, side: int, closed: float, aside: float) -> None:
    lid, squint = float(np.clip(face.lid, -1.1, 1.2)), float(np.clip(face.squint, 0, 1))
    x0, y0 = side * look.eye_gap, -0.12
    up = look.eye * (0.52 + 0.34 * lid - 0.08 * squint) * (1 - closed)
    down = look.eye * (0.40 - 0.30 * squint + 0.06 * max(lid, 0))
    sad = 0.03 * max(face.inner, 0) * (1 - max(lid, 0))
    slant = -0.015 * side * _X + sad * side * _X
    across = x0 + look.eye * _X
    top = y0 + slant - (up - closed * down) * _BOW**0.7 + closed * 0.02
    bottom = y0 + slant + down * _BOW**0.8
    shape = np.concatenate([np.stack([across, top], 1), np.stack([across, np.maximum(bottom, top)], 1)[::-1]])
    if closed < 0.8:
        _eyeball(image, look, shape, (x0 + 0.07 * aside, y0 + 0.04 * float(np.clip(face.gaze, -1, 1))))
    stroke(image, np.stack([across, top], 1), (40, 28, 28), 4)
    stroke(image, np.stack([across, bottom], 1), shade(look.skin, 0.62), 1)
    fold = np.stack([across, top - 0.045 - 0.02 * _BOW], 1)
    stroke(image, fold, shade(look.skin, 0.68), 1 if lid > 0.3 else 2)
    if squint > 0.25:
        stroke(image, np.stack([across, bottom + 0.05 + 0.03 * _BOW], 1), shade(look.skin, 0.72), 2)


def _eyeball(image: Image, look: Look, shape: Array, at: tuple[float, float]) -> None:
    """The white, iris, pupil and glint, seen through the lids."""
    import cv2

    mask = np.zeros(image.shape[:2], np.uint8)
    fill(mask, shape, 255)
    x0, y0, wide, high = cv2.boundingRect(mask)
    box = np.s_[y0 : y0 + high, x0 : x0 + wide]
    ball = np.empty_like(image)
    ball[box] = 240
    fill(ball, ellipse(*at, 0.092, 0.092), shade(look.iris, 0.55))
    fill(ball, ellipse(*at, 0.080, 0.080), look.iris)
    fill(ball, ellipse(*at, 0.042, 0.042), (14, 12, 14))
    fill(ball, ellipse(at[0] - 0.03, at[1] - 0.035, 0.022, 0.022), (255, 255, 255))
    through = mask[box][..., None] / np.float32(255)
    image[box] = (image[box] * (1 - through) + ball[box] * through).astype(np.uint8)


def _brow(image: Image, look: Look, face: Face, side: int) -> None:
    brow, inner = np.clip([face.brow, face.inner], -1.2, 1.2)
    t = np.linspace(0, 1, 12)  # from the inner to the outer end
    x = side * (look.eye_gap - 0.19 - 0.04 * min(inner, 0.0) * -1 + (0.4 + 0.02 * brow) * t)
    y = -0.375 - 0.12 * brow - 0.05 * np.sin(np.pi * t * 0.9) + 0.02 * t
    y = y - 0.13 * inner * (1 - t) ** 1.4 + 0.05 * max(inner, 0) * t**2 + 0.05 * min(inner, 0) * t
    thick = look.brow * (1.0 - 0.55 * t) * np.minimum(1, 0.6 + 4 * t)
    shape = np.concatenate([np.stack([x, y - thick], 1), np.stack([x, y + thick * 0.7], 1)[::-1]])
    fill(image, shape, shade(look.hair, 0.7) if look.style != "bald" else (72, 54, 44))


def _nose(image: Image, look: Look) -> None:
    w = 0.1 * look.nose
    dark = shade(look.skin, 0.66)
    stroke(image, ellipse(0, 0.255, w, 0.05, 20, 160), dark, 3)
    for side in (-1, 1):
        stroke(image, ellipse(side * w * 1.05, 0.235, 0.045, 0.055, 90 - side * 100, 90 - side * 10), dark, 2)
        fill(image, ellipse(side * w * 0.55, 0.285, 0.03, 0.014), shade(look.skin, 0.45))
    stroke(image, [[-0.075, -0.05], [-0.06, 0.12], [-w, 0.2]], shade(look.skin, 0.84), 2)


def _furrows(image: Image, look: Look, face: Face) -> None:
    """Lines that come with raised brows, a frown, grief and a smile."""
    line = mix(look.skin, shade(look.skin, 0.6), 0.75)
    if face.brow > 0.45:
        for y in (-0.62, -0.70):
            stroke(image, np.stack([0.3 * _X, y + 0.03 * _X**2], 1), line, 2)
    if face.inner > 0.5:
        stroke(image, np.stack([0.13 * _X, -0.6 + 0.05 * _BOW * -1], 1), line, 2)
    if face.inner < -0.4:
        for side in (-1, 1):
            stroke(image, [[side * 0.05, -0.42], [side * 0.04, -0.28]], line, 1)
    if face.corner > 0.35:
        for side in (-1, 1):
            arc = ellipse(side * 0.2, 0.5, 0.2, 0.3, 270 if side > 0 else 180, 360 if side > 0 else 270)
            stroke(image, arc, mix(look.skin, line, min(1.0, face.corner)), 2)


def _place(drawn: Image, cover: Image, behind: NDArray[np.float32], sway: Array) -> NDArray[np.float32]:
    """Turn and shift the head, lay it over the room, and take the picture: float32 `[128, 128, 3]`."""
    import cv2

    x, y, angle, zoom = sway.tolist()
    chin = (CANVAS / 2, CANVAS / 2 + UNIT)
    turn = cv2.getRotationMatrix2D(chin, angle, zoom)
    turn[:, 2] += (x * UNIT, y * UNIT)
    both = cv2.merge([drawn, cover])
    moved = cv2.resize(
        cv2.warpAffine(both, turn, (CANVAS, CANVAS)), (SIZE, SIZE), interpolation=cv2.INTER_AREA
    )
    over = moved[..., 3:] * np.float32(1 / 255)
    return behind + (moved[..., :3] - behind) * over


def _sway(times: Array, face: Face, rng: np.random.Generator) -> Array:
    """Head shift (head units), turn (degrees) and size per frame, `[T, 4]`."""
    lively = 0.4 + max(face.nod, 0.0)
    x = 0.04 * lively * _wander(times, 0.5, rng)
    y = 0.03 * lively * _wander(times, 0.9, rng)
    angle = 2.5 * lively * _wander(times, 0.4, rng) + 5 * face.tilt * rng.choice([-1, 1]) + rng.normal(0, 1.5)
    zoom = np.full(len(times), rng.uniform(0.92, 1.06))
    return np.stack([x, y, angle, zoom], axis=1)


def _wander(times: Array, hertz: float, rng: np.random.Generator) -> Array:
    """A slow, aimless motion within about ±1."""
    phases, speeds = rng.uniform(0, 2 * np.pi, 3), hertz * rng.uniform(0.5, 1.6, 3)
    waves = np.sin(2 * np.pi * speeds[:, None] * times + phases[:, None])
    return np.asarray(waves.mean(0) * 1.4)


def _ease(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _blink(since: float) -> float:
    return max(0.0, 1 - abs(since - 0.1) / 0.1)


def _scaled(face: Face, by: float) -> Face:
    return Face(*(getattr(face, f.name) * by for f in fields(Face)))
