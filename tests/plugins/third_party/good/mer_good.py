"""A third party's plugin in one file: the loudness of every tenth of a second."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import Clip
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.hookspecs import hookimpl
from mer_plugins.media import RATE, read_audio
from mer_plugins.settings import Settings

OPTIONS = {"floor": ("-80", "quietest loudness in dB")}


class Loudness(Extractor[NDArray[np.float32]]):
    """Rows of one number: dB."""

    row_shape = (1,)
    frame_hz = 10.0

    def __init__(self, options: Options) -> None:
        self.floor = Settings(OPTIONS, options).number("floor", -200, 0)

    def made_by(self) -> Mapping[str, Any]:
        """Return the settings."""
        return {"floor": self.floor}

    def prepare(self, clip: Clip) -> NDArray[np.float32]:
        """Decode."""
        if clip.audio is None:
            raise ClipError("no audio")
        return read_audio(clip.audio)

    def encode(self, batch: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the loudness of every tenth of a second."""
        return [self._loudness(sound) for sound in batch]

    def _loudness(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        size = RATE // 10
        padded = np.pad(sound, (0, -len(sound) % size)).reshape(-1, size)
        power = np.maximum((padded**2).mean(axis=1, keepdims=True), 10 ** (self.floor / 10))
        return np.asarray(10 * np.log10(power), dtype=np.float32)


CARD = ExtractorCard(
    name="loudness",
    modality="audio",
    levels=("utt", "frame"),
    summary="loudness every tenth of a second",
    build=Loudness,
    options=OPTIONS,
)


@hookimpl
def mer_extractors() -> list[ExtractorCard]:
    """Offer it."""
    return [CARD]
