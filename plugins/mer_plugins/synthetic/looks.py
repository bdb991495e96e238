"""What a speaker looks like, and the still parts of the picture: room, shoulders, a head without features.

Everything is drawn in head units (the face is 2 high and centred on 0, x to the right of the picture, y down)
on a canvas of twice the final size, anti-aliased by OpenCV.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[float, float, float]
Image = NDArray[np.uint8]
Array = NDArray[np.float64]

CANVAS = 256  # pixels a side while drawing
UNIT = 80.0  # pixels per head unit
_CENTRE = np.array([CANVAS / 2, CANVAS / 2 + 2])

_SKINS = ((250, 219, 193), (241, 200, 168), (226, 178, 140), (198, 144, 104), (158, 106, 74), (120, 78, 56))
_HAIRS = (
    (38, 30, 28),
    (70, 46, 34),
    (112, 72, 44),
    (168, 118, 66),
    (214, 176, 112),
    (150, 66, 40),
    (150, 150, 154),
)
_IRISES = ((84, 56, 36), (104, 76, 44), (74, 108, 76), (72, 112, 148), (96, 112, 124))
_CLOTHES = (
    (196, 72, 66),
    (62, 104, 160),
    (70, 132, 104),
    (222, 172, 72),
    (112, 84, 140),
    (58, 64, 80),
    (214, 206, 192),
)
_WALLS = (
    (206, 214, 218),
    (222, 212, 196),
    (186, 200, 190),
    (200, 190, 206),
    (160, 174, 190),
    (228, 222, 214),
)
_STYLES = ("short", "parted", "bob", "long", "bun", "curly", "bald")

_NECK = ((-0.36, 0.5), (0.36, 0.5), (0.42, 1.28), (0.0, 1.5), (-0.42, 1.28))


@dataclass(frozen=True)
class Look:
    """A speaker's face: colours (RGB, 0-255) and proportions (head units)."""

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    style: str
    width: float
    jaw: float
    eye_gap: float
    eye: float
    brow: float
    nose: float
    mouth: float
    glasses: bool
    beard: bool

    @cached_property
    def lips(self) -> Colour:
        """Colour of the lips, from the skin's."""
        return mix(shade(self.skin, 0.86), (176, 64, 66), 0.42)


_TURN = np.linspace(0, 2 * np.pi, 48)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def cast_look(rng: np.random.Generator) -> Look:
    """Draw a speaker's looks."""

    def pick(colours: tuple[Colour, ...]) -> Colour:
        base = np.array(colours[rng.integers(len(colours))]) + rng.normal(0, 5, 3)
        red, green, blue = np.clip(base, 0, 255).tolist()
        return red, green, blue

    return Look(
        skin=pick(_SKINS), hair=pick(_HAIRS), iris=pick(_IRISES), shirt=pick(_CLOTHES),
        style=str(rng.choice(_STYLES, p=(0.22, 0.2, 0.15, 0.15, 0.1, 0.12, 0.06))),
        width=rng.uniform(0.74, 0.83), jaw=rng.uniform(0.05, 0.22), eye_gap=rng.uniform(0.31, 0.36),
        eye=rng.uniform(0.155, 0.18), brow=rng.uniform(0.045, 0.07), nose=rng.uniform(0.8, 1.2),
        mouth=rng.uniform(0.25, 0.3), glasses=bool(rng.random() < 0.22), beard=bool(rng.random() < 0.16),
    )  # fmt: skip


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Go from colour a to b by t."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (below 1) or lighter (above 1)."""
    return (min(colour[0] * factor, 255), min(colour[1] * factor, 255), min(colour[2] * factor, 255))


def fill(image: NDArray[Any], points: ArrayLike, colour: Colour | float) -> None:
    """Fill a polygon given in head units `[n, 2]`."""
    import cv2

    pixels = np.round((np.asarray(points) * UNIT + _CENTRE) * 16).astype(np.int32)
    cv2.fillPoly(image, [pixels], colour, cv2.LINE_AA, 4)


def stroke(image: NDArray[Any], points: ArrayLike, colour: Colour | float, width: float) -> None:
    """Draw a line through points in head units `[n, 2]`, `width` pixels thick on the canvas."""
    import cv2

    pixels = np.round((np.asarray(points) * UNIT + _CENTRE) * 16).astype(np.int32)
    cv2.polylines(image, [pixels], False, colour, max(1, round(width)), cv2.LINE_AA, 4)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Array:
    """Points `[n, 2]` of an ellipse or an arc of it; degrees run clockwise from the right."""
    if start == 0 and stop == 360:
        return _CIRCLE * (rx, ry) + (x, y)
    t = np.radians(np.linspace(start, stop, 32))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def _outline(look: Look) -> Array:
    """The face: an ellipse whose lower half narrows to a chin."""
    t = np.linspace(0, 2 * np.pi, 96)
    x, y = np.cos(t), np.sin(t)
    narrow = 1 - look.jaw * np.clip(y, 0, 1) ** 1.5
    return np.stack([look.width * np.sign(x) * np.abs(x) ** 0.9 * narrow, y], axis=1)


@lru_cache(maxsize=64)
def head(look: Look) -> tuple[Image, Image]:
    """A head without features.

    Returns:
        Its colours, uint8 `[CANVAS, CANVAS, 3]`, and how much it covers, uint8 `[CANVAS, CANVAS]`.
    """
    image = np.full((CANVAS, CANVAS, 3), look.hair, np.uint8)
    cover = np.zeros((CANVAS, CANVAS), np.uint8)
    for shape in _back_hair(look):
        fill(image, shape, shade(look.hair, 0.82))
        fill(cover, shape, 255)
    if look.style in {"bob", "long"}:
        fill(image, _NECK, shade(look.skin, 0.74))
    for side in (-1, 1):
        for shape, colour in (
            (ellipse(side * look.width, 0.02, 0.11, 0.19), look.skin),
            (ellipse(side * look.width, 0.03, 0.06, 0.12), shade(look.skin, 0.8)),
        ):
            fill(image, shape, colour)
            fill(cover, shape, 255)
    fill(cover, _outline(look), 255)
    _paint_skin(image, look)
    for shape in _front_hair(look):
        fill(cover, shape, 255)
    return image, cover


def comb(image: Image, look: Look) -> None:
    """Draw the hair in front of the forehead."""
    for shape in _front_hair(look):
        fill(image, shape, look.hair)
    if look.style != "bald":
        stroke(image, ellipse(-0.12, -0.80, 0.42, 0.26, 200, 290), shade(look.hair, 1.22), 3)


def _paint_skin(image: Image, look: Look) -> None:
    """Light from above: a bright forehead, nose and cheeks, sockets and sides in shade."""
    import cv2

    light = np.full((CANVAS, CANVAS), 0.92, np.float32)
    for points, value in (
        (ellipse(0, -0.55, 0.5, 0.3), 1.06),
        (ellipse(-0.36, 0.25, 0.2, 0.18), 1.05),
        (ellipse(0.36, 0.25, 0.2, 0.18), 1.03),
        (ellipse(-look.eye_gap, -0.17, 0.22, 0.12), 0.80),
        (ellipse(look.eye_gap, -0.17, 0.22, 0.12), 0.79),
        (ellipse(0, -0.02, 0.055, 0.3), 1.10),
        (ellipse(0, 0.33, 0.12, 0.04), 0.80),
        (ellipse(0, 0.72, 0.2, 0.05), 0.84),
    ):
        fill(light, points, value)
    light[:] = cv2.GaussianBlur(light, (0, 0), 0.075 * UNIT)
    grid = (np.arange(CANVAS) - CANVAS / 2) / UNIT
    light *= (1.03 - 0.22 * np.abs(grid / look.width) ** 3).astype(np.float32)[None].clip(0.6)
    blush = np.zeros((CANVAS, CANVAS), np.float32)
    for side in (-1, 1):
        fill(blush, ellipse(side * 0.42, 0.24, 0.17, 0.12), 0.20)
    blush[:] = cv2.GaussianBlur(blush, (0, 0), 0.09 * UNIT)
    skin = np.array(look.skin, np.float32)[None, None] * light[..., None]
    skin += blush[..., None] * (np.array([222, 98, 88], np.float32) - skin)
    if look.beard:
        skin = _beard(skin, look)
    face = np.zeros((CANVAS, CANVAS), np.uint8)
    fill(face, _outline(look), 255)
    cover = face[..., None] / np.float32(255)
    image[:] = (image * (1 - cover) + np.clip(skin, 0, 255) * cover).astype(np.uint8)


def _beard(skin: NDArray[np.float32], look: Look) -> NDArray[np.float32]:
    import cv2

    mask = np.zeros((CANVAS, CANVAS), np.float32)
    fill(
        mask,
        np.concatenate([ellipse(0, 0.2, look.width, 0.82, 0, 180), ellipse(0, 0.22, 0.62, 0.14, 180, 360)]),
        0.6,
    )
    mask[:] = cv2.GaussianBlur(mask, (0, 0), 0.05 * UNIT)
    return np.asarray(skin + mask[..., None] * (np.array(look.hair, np.float32) - skin), np.float32)


def _back_hair(look: Look) -> list[Array]:
    w = look.width
    if look.style == "bald":
        return []
    crown = ellipse(0, -0.16, w + 0.11, 1.02, 165, 375)
    if look.style == "bob":
        return [
            np.concatenate([crown, ellipse(w, 0.5, 0.2, 0.22, 0, 90), ellipse(-w, 0.5, 0.2, 0.22, 90, 180)])
        ]
    if look.style == "long":
        return [
            np.concatenate(
                [crown, ellipse(0.62, 1.1, w - 0.5, 0.3, 0, 90), ellipse(-0.62, 1.1, w - 0.5, 0.3, 90, 180)]
            )
        ]
    if look.style == "bun":
        return [crown, ellipse(0, -1.26, 0.3, 0.25)]
    if look.style == "curly":
        around = np.radians(np.linspace(150, 390, 15))
        return [ellipse(1.0 * w * np.cos(t), -0.28 + 0.82 * np.sin(t), 0.26, 0.26) for t in around]
    return [crown]


def _front_hair(look: Look) -> list[Array]:
    """From temple to temple over the head, and back along the hairline."""
    w = look.width
    over = ellipse(0, -0.16, w + 0.09, 1.0, 185, 355)
    lines = {
        "short": [[0.66, -0.42], [0.55, -0.66], [0, -0.74], [-0.55, -0.66], [-0.66, -0.42]],
        "parted": [[0.70, -0.30], [0.55, -0.62], [0.1, -0.62], [-0.3, -0.80], [-0.6, -0.6], [-0.72, -0.3]],
        "bob": [
            [0.74, -0.1],
            [0.58, -0.55],
            [0.3, -0.58],
            [0, -0.56],
            [-0.3, -0.58],
            [-0.58, -0.55],
            [-0.74, -0.1],
        ],
        "long": [
            [0.72, 0.0],
            [0.6, -0.45],
            [0.25, -0.72],
            [0, -0.84],
            [-0.25, -0.72],
            [-0.6, -0.45],
            [-0.72, 0.0],
        ],
        "bun": [[0.68, -0.35], [0.45, -0.72], [0, -0.80], [-0.45, -0.72], [-0.68, -0.35]],
    }
    if look.style == "bald":
        return []
    if look.style == "curly":
        return [ellipse(x, -0.86 + 0.35 * x * x, 0.2, 0.17) for x in np.linspace(-0.62, 0.62, 7)]
    return [np.concatenate([over, np.array(lines[look.style]) * [w / 0.78, 1]])]


def room(look: Look, rng: np.random.Generator, *, absent: bool = False) -> NDArray[np.float32]:
    """The wall behind, out of focus, with the speaker's neck and shoulders in front unless `absent`.

    Returns:
        RGB, float32 `[CANVAS / 2, CANVAS / 2, 3]`.
    """
    import cv2

    wall: Colour = _WALLS[rng.integers(len(_WALLS))]
    image = np.full((CANVAS, CANVAS, 3), wall, np.float32)
    image *= np.linspace(1.05, 0.85, CANVAS, dtype=np.float32)[:, None, None]
    kind = rng.integers(4)
    if kind == 0:  # a window
        x = rng.uniform(-1.6, 1.0)
        fill(image, [[x, -1.7], [x + 1.1, -1.7], [x + 1.1, -0.1], [x, -0.1]], (236, 242, 246))
        stroke(image, [[x + 0.55, -1.7], [x + 0.55, -0.1]], shade(wall, 0.8), 5)
    elif kind == 1:  # a shelf of books
        x = -1.9
        while x < 1.9:
            wide = rng.uniform(0.12, 0.28)
            colour = mix(_CLOTHES[rng.integers(len(_CLOTHES))], wall, 0.45)
            fill(image, [[x, rng.uniform(-1.7, -1.3)], [x + wide, -1.5], [x + wide, -0.6], [x, -0.6]], colour)
            x += wide + 0.02
    elif kind == 2:  # lamps far away
        for _ in range(8):
            spot = ellipse(*rng.uniform(-1.8, 1.8, 2), *[rng.uniform(0.08, 0.25)] * 2)
            fill(image, spot, mix(wall, (250, 226, 170), rng.uniform(0.3, 0.8)))
    image[:] = cv2.GaussianBlur(image, (0, 0), 7)
    if not absent:
        _shoulders(image, look)
    return np.asarray(cv2.resize(image, (CANVAS // 2, CANVAS // 2), interpolation=cv2.INTER_AREA), np.float32)


def _shoulders(image: NDArray[np.float32], look: Look) -> None:
    shoulders = np.concatenate([ellipse(0, 1.95, 1.5, 0.72, 180, 360), [[1.5, 3], [-1.5, 3]]])
    fill(image, shoulders, look.shirt)
    fill(image, _NECK, shade(look.skin, 0.74))
    stroke(image, [[-0.44, 1.24], [0, 1.54], [0.44, 1.24]], shade(look.shirt, 0.8), 5)
