"""Faces: a small replaceable detector, one face followed through a clip, and square crops.

`FaceDetector` is the interface; `DETECTORS` the table. The one here is OpenCV's frontal Haar cascade, whose
weights come with opencv-python-headless below version 5.
"""

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_plugins.errors import ClipError

Image = NDArray[np.uint8]
Box = NDArray[np.float64]  # centre x, centre y, side; pixels

FACE_OPTIONS = {
    "face": ("detect", "detect (follow a face), center (centre square) or none (the whole frame)"),
    "faceless": ("skip", "frames without a face: skip them, or center (take the centre square)"),
}


class FaceDetector(ABC):
    """Finds faces in one picture; called from several threads."""

    @abstractmethod
    def made_by(self) -> Mapping[str, Any]:
        """Return what decides its boxes, as JSON, for the fingerprint."""

    @abstractmethod
    def detect(self, image: Image) -> Box:
        """Return square boxes float64 `[n, 3]` (centre x, centre y, side) in RGB uint8 `[H, W, 3]`."""


class HaarDetector(FaceDetector):
    """OpenCV's `haarcascade_frontalface_default`, for faces of at least a fifth of the shorter side.

    The cascade looks through a window of 24 pixels, so pictures are scaled down until that is the fifth.
    """

    _shorter, _window = 120, 24
    _settings = (("scaleFactor", 1.1), ("minNeighbors", 3))

    def __init__(self) -> None:
        self._local = threading.local()  # a cascade keeps state while it runs

    def made_by(self) -> Mapping[str, Any]:
        """Return its settings."""
        return {
            "name": "haarcascade_frontalface_default",
            "shorter_side": self._shorter,
            **dict(self._settings),
        }

    def detect(self, image: Image) -> Box:
        """Return square boxes float64 `[n, 3]`."""
        import cv2

        scale = min(1.0, self._shorter / min(image.shape[:2]))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = (self._window, self._window)
        found = self._cascade().detectMultiScale(grey, minSize=smallest, **dict(self._settings))
        boxes = np.asarray(found, dtype=np.float64).reshape(-1, 4) / scale
        return np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].max(axis=1, initial=0)])

    def _cascade(self) -> Any:
        if not hasattr(self._local, "cascade"):
            import cv2

            path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
            self._local.cascade = cv2.CascadeClassifier(str(path))
        return self._local.cascade


DETECTORS: dict[str, Callable[[], FaceDetector]] = {"haar": HaarDetector}


class FaceCropper:
    """Cuts square pictures of one person's face out of a clip's frames.

    Args:
        face: `detect`, `center` or `none`.
        faceless: What becomes of frames without a face under `detect`: `skip` or `center`.
        size: Side of the result in pixels.
        margin: How much wider than the detector's box a crop is, as a factor.
        center: Side of the centre square in pixels; None takes the shorter side of the frame.
        detector: Name in `DETECTORS`.
    """

    def __init__(
        self,
        face: str,
        faceless: str,
        *,
        size: int,
        margin: float = 1.1,
        center: int | None = None,
        detector: str = "haar",
    ) -> None:
        self.face, self.faceless = face, faceless
        self.size, self.margin, self.center = size, margin, center
        self.detector = DETECTORS[detector]()

    def made_by(self) -> dict[str, Any]:
        """Return what decides the crops; only what matters under the chosen policy."""
        facts: dict[str, Any] = {"face": self.face, "size": self.size}
        if self.face == "detect":
            facts |= {
                "faceless": self.faceless,
                "margin": self.margin,
                "detector": dict(self.detector.made_by()),
            }
        if self.face == "center" or (self.face == "detect" and self.faceless == "center"):
            facts["center"] = self.center or "shorter side"
        return facts

    def crop(self, frames: Callable[[], Iterable[Image]], where: str) -> Image:
        """Return uint8 RGB `[T', size, size, 3]`, T' ≤ T where faceless frames are skipped.

        Args:
            frames: Starts decoding the frames, one at a time. Called a second time to cut out the faces that
                the first pass found, so that no more than one whole frame is ever held.
            where: The file, for messages.

        Raises:
            ClipError: No frames, or no face in any of them and nothing else allowed.
        """
        if self.face == "detect":
            crops, seen = self._faces(frames)
        else:
            crops = [cut(frame, self._middle(frame), self.size) for frame in frames()]
            seen = len(crops)
        if not seen:
            raise ClipError(f"no frames in {where}")
        if not crops:
            raise ClipError(
                f"no face found in {seen} frames of {where}",
                "--option faceless=center would take the centre of the picture",
            )
        return np.stack(crops)

    def _faces(self, frames: Callable[[], Iterable[Image]]) -> tuple[list[Image], int]:
        found: list[Box] = []
        shape: tuple[int, ...] = ()
        for frame in frames():
            found.append(self.detector.detect(frame))
            shape = frame.shape
        boxes = follow_face(found, shape) if found else []
        crops = []
        wanted = self._fills or any(box is not None for box in boxes)
        for frame, box in zip(frames() if wanted else (), boxes, strict=False):
            if box is not None:
                crops.append(cut(frame, box * (1, 1, self.margin), self.size))
            elif self._fills:
                crops.append(cut(frame, self._middle(frame), self.size))
        return crops, len(found)

    @property
    def _fills(self) -> bool:
        return self.faceless == "center"

    def _middle(self, frame: Image) -> Box | None:
        if self.face == "none":
            return None
        height, width = frame.shape[:2]
        return np.array([width / 2, height / 2, self.center or min(height, width)])


def follow_face(found: Sequence[Box], shape: tuple[int, ...], smooth: int = 2) -> list[Box | None]:
    """Choose one face and steady it: per frame a box (centre x, centre y, side), or None without a face.

    The face is the largest and most central one in the frames as a whole; from there each frame takes the box
    nearest to the last one. Gaps of up to `2 * smooth` frames between two finds are bridged, then every box
    is the mean of its neighbours within ±`smooth` frames.
    """
    chosen = _chain(found, shape)
    filled = _bridge(chosen, 2 * smooth)
    steady: list[Box | None] = []
    for t, box in enumerate(filled):
        near = [b for b in filled[max(0, t - smooth) : t + smooth + 1] if b is not None]
        steady.append(None if box is None else np.mean(near, axis=0))
    return steady


def _chain(found: Sequence[Box], shape: tuple[int, ...]) -> list[Box | None]:
    """Start at the best face of all frames and walk from it to both ends."""
    scores = [_prominence(boxes, shape) for boxes in found]
    best = max(range(len(found)), key=lambda t: scores[t].max(initial=-1.0), default=0)
    chosen: list[Box | None] = [None] * len(found)
    if not len(found) or not len(found[best]):
        return chosen
    for walk in (range(best, len(found)), range(best, -1, -1)):
        last = found[best][scores[best].argmax()]
        for t in walk:
            nearest = _nearest(found[t], last)
            if nearest is not None:
                chosen[t] = last = nearest
    return chosen


def _prominence(boxes: Box, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return area times closeness to the middle, `[n]`."""
    height, width = shape[:2]
    off = np.hypot((boxes[:, 0] - width / 2) / width, (boxes[:, 1] - height / 2) / height)
    return np.asarray(boxes[:, 2] ** 2 * (1 - off))


def _nearest(boxes: Box, last: Box) -> Box | None:
    """Return the box most like the last: no further off than its side, at most twice as large or small."""
    away = np.hypot(boxes[:, 0] - last[0], boxes[:, 1] - last[1]) / last[2]
    scaled = np.abs(np.log2(np.maximum(boxes[:, 2], 1) / last[2]))
    near = (away < 1) & (scaled < 1)
    return boxes[near][np.argmin((away + scaled)[near])] if near.any() else None


def _bridge(boxes: Sequence[Box | None], longest: int) -> list[Box | None]:
    filled = list(boxes)
    seen = [t for t, box in enumerate(boxes) if box is not None]
    for a, b in itertools.pairwise(seen):
        if 1 < b - a <= longest + 1:
            start, stop = boxes[a], boxes[b]
            for t in range(a + 1, b):
                share = (t - a) / (b - a)
                filled[t] = (1 - share) * np.asarray(start) + share * np.asarray(stop)
    return filled


def cut(image: Image, box: Box | None, size: int) -> Image:
    """Cut a square and scale it to `[size, size, 3]`, black where it sticks out; None takes it all."""
    import cv2

    if box is None:
        height, width = image.shape[:2]
        box = np.array([width / 2, height / 2, max(height, width)])
    x, y, side = box
    left, top, side = round(x - side / 2), round(y - side / 2), max(1, round(side))
    height, width = image.shape[:2]
    inside = image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    if inside.shape[:2] != (side, side):
        square = np.zeros((side, side, 3), np.uint8)
        down, right = max(0, -top), max(0, -left)
        square[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
        inside = square
    if side == size:
        return np.ascontiguousarray(inside)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inside, (size, size), interpolation=how), dtype=np.uint8)
