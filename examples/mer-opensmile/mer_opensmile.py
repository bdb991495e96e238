"""eGeMAPS for mer-fs: a complete third-party plugin in one file.

`egemaps` gives the 88 functionals per utterance, `egemaps-lld` the 25 low-level descriptors per 10 ms frame
(F. Eyben et al., The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective
Computing, IEEE Transactions on Affective Computing, 2016), both computed by openSMILE.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip, Level
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.hookspecs import hookimpl
from mer_plugins.media import RATE, read_audio

FEATURE_SET = "eGeMAPSv02"
WIDTH: dict[Level, int] = {"utt": 88, "frame": 25}
SHORTEST = 0.06  # seconds; openSMILE's longest window is 60 ms, and it answers anything shorter with NaN

Sound = NDArray[np.float32]


class EGeMAPS(Extractor[Sound]):
    """openSMILE's eGeMAPS v02: `[1, 88]` functionals or `[T, 25]` low-level descriptors, float32."""

    def __init__(self, options: Options, level: Level) -> None:
        del options  # there is nothing to choose: the set is a standard
        self.level = level
        self.row_shape = (WIDTH[level],)
        self.frame_hz = 100.0 if level == "frame" else None
        self._smile: Any = None

    def made_by(self) -> Mapping[str, Any]:
        """Return what decides the values: the set, the level, and openSMILE's version."""
        return {"set": FEATURE_SET, "level": self.level, "opensmile": version("opensmile"), "rate": RATE}

    def load(self) -> None:
        """Configure openSMILE."""
        from opensmile import FeatureLevel, FeatureSet, Smile

        level = FeatureLevel.Functionals if self.level == "utt" else FeatureLevel.LowLevelDescriptors
        self._smile = Smile(feature_set=FeatureSet[FEATURE_SET], feature_level=level)

    def prepare(self, clip: Clip) -> Sound:
        """Decode the clip's audio to 16 kHz mono."""
        sound = read_audio(clip.audio or "")
        if len(sound) < SHORTEST * RATE:
            raise ClipError(
                f"{len(sound) / RATE * 1000:.0f} ms of sound; eGeMAPS needs {SHORTEST * 1000:.0f} ms"
            )
        return sound

    def seconds(self, prepared: Sound) -> float:
        """Return the clip's length in seconds."""
        return len(prepared) / RATE

    def encode(self, batch: Sequence[Sound]) -> list[Sound]:
        """Return one `[T, width]` array per sound."""
        return [self._smile.process_signal(sound, RATE).to_numpy(np.float32) for sound in batch]

    def close(self) -> None:
        """Let openSMILE go."""
        self._smile = None


def card(name: str, level: Level, summary: str) -> ExtractorCard:
    """Return the card of one level; `opensmile` itself is imported by `load`, not here."""
    return ExtractorCard(
        name=name,
        modality="audio",
        levels=(level,),
        summary=summary,
        build=lambda options: EGeMAPS(options, level),
        requires=("opensmile",),
        install="pip install opensmile",
    )


@hookimpl
def mer_extractors() -> list[ExtractorCard]:
    """Offer both levels."""
    return [
        card("egemaps", "utt", "eGeMAPS v02: 88 functionals, by openSMILE"),
        card("egemaps-lld", "frame", "eGeMAPS v02: 25 low-level descriptors every 10 ms, by openSMILE"),
    ]
