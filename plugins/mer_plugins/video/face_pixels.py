"""`face-pixels`: what a face looks like, in a few hundred numbers a frame; no weights needed.

Frames are sampled in time, the face is followed and cut out, made grey, and standardised against lighting.
The descriptor is the low-frequency corner of its 2-D DCT (shape of the whole face) and a HOG (Dalal & Triggs
2005: edges of mouth, brows and eyes).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.media import iter_frames
from mer_plugins.pooling import POOL_OPTION, POOLINGS
from mer_plugins.settings import Settings
from mer_plugins.video.faces import FACE_OPTIONS, FaceCropper, Image

SIZE, DCT = 64, 12
_WIDTHS = {"dct": DCT * DCT - 1, "hog": 324}

OPTIONS = {
    "fps": ("5", "frames a second that are looked at"),
    **FACE_OPTIONS,
    "descriptor": ("dct+hog", "dct, hog or dct+hog"),
    **POOL_OPTION,
}


class FacePixels(Extractor[NDArray[np.float32]]):
    """Rows of 143 (DCT), 324 (HOG) or 467 numbers per sampled frame."""

    batch_cost = 64.0

    def __init__(self, options: Options) -> None:
        say = Settings(OPTIONS, options)
        self.fps = say.number("fps", 0.1, 60)
        face = say.choice("face", ("detect", "center", "none"))
        self.cropper = FaceCropper(face, say.choice("faceless", ("skip", "center")), size=SIZE)
        self.descriptor = say.choice("descriptor", ("dct", "hog", "dct+hog"))
        self.pooling = say.choice("pool", POOLINGS)
        self.row_shape = (sum(_WIDTHS[part] for part in self.descriptor.split("+")),)
        self.frame_hz = self.fps

    def made_by(self) -> Mapping[str, Any]:
        """Return the settings."""
        return {"fps": self.fps, "descriptor": self.descriptor, "crop": self.cropper.made_by()}

    def prepare(self, clip: Clip) -> NDArray[np.float32]:
        """Decode, crop and describe; OpenCV lets go of the interpreter lock, so the threads share it."""
        if clip.video is None:
            raise ClipError(f"clip {clip.key} has no video")
        path = clip.video
        faces = self.cropper.crop(lambda: (p.rgb for p in iter_frames(path, fps=self.fps)), path)
        return np.stack([self.describe(face) for face in faces])

    def seconds(self, prepared: NDArray[np.float32]) -> float:
        """Return the clip's seconds, as far as frames were used."""
        return len(prepared) / self.fps

    def encode(self, batch: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the rows that `prepare` made."""
        return list(batch)

    def describe(self, face: Image) -> NDArray[np.float32]:
        """Return the descriptor `[D]` of one RGB face `[64, 64, 3]`."""
        import cv2

        grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        parts = {"dct": _low_frequencies, "hog": _hog}
        return np.concatenate([parts[part](grey) for part in self.descriptor.split("+")])


def _low_frequencies(grey: Image) -> NDArray[np.float32]:
    """Return the DCT's low corner of the standardised picture, without the constant, `[143]`."""
    import cv2

    pixels = grey.astype(np.float32)
    pixels = (pixels - pixels.mean()) / max(float(pixels.std()), 1.0)
    corner = cv2.dct(pixels)[:DCT, :DCT]
    return np.asarray(corner.ravel()[1:] / (SIZE / 4), dtype=np.float32)


def _hog(grey: Image) -> NDArray[np.float32]:
    """Return 3 x 3 overlapping blocks of 2 x 2 cells of 16 pixels, 9 orientations, `[324]`."""
    import cv2

    hog = cv2.HOGDescriptor((SIZE, SIZE), (32, 32), (16, 16), (16, 16), 9)
    return np.asarray(hog.compute(grey), dtype=np.float32).ravel()


CARDS = (
    ExtractorCard(
        name="face-pixels",
        modality="video",
        levels=("utt", "frame"),
        summary="grey face, DCT and HOG per sampled frame; no weights",
        build=FacePixels,
        requires=("cv2",),
        install="pip install 'mer-fs[video]'",
        options=OPTIONS,
    ),
)
