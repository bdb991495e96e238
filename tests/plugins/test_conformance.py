"""The conformance kit over every built-in extractor of its own family."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from mer_plugins.contract import Options
from mer_plugins.host import find_extractor
from mer_plugins.testing import ExtractorTests
from support import checkpoints


class TestProsody(ExtractorTests):
    """`prosody` as it comes."""

    card = find_extractor("prosody")


class TestProsodyLogMel(ExtractorTests):
    """`prosody` with log-mel bands, plain pooling."""

    card = find_extractor("prosody")
    options = Options(extra={"spectrum": "logmel", "deltas": "0", "pool": "mean-std"})


class TestFacePixels(ExtractorTests):
    """`face-pixels` on whole frames, since the sample films show no face."""

    card = find_extractor("face-pixels")
    options = Options(extra={"face": "none"})


class TestFacePixelsFallback(ExtractorTests):
    """`face-pixels` looking for faces, with the centre where there is none."""

    card = find_extractor("face-pixels")
    options = Options(extra={"faceless": "center", "descriptor": "dct", "pool": "max", "fps": "10"})


class TestCharNgrams(ExtractorTests):
    """`char-ngrams` as it comes."""

    card = find_extractor("char-ngrams")


class WithCheckpoint(ExtractorTests):
    """An extractor that needs a checkpoint: `make` saves a tiny one."""

    __test__ = False
    make: ClassVar[Callable[[Path], Path]]
    given: ClassVar[Options] = Options()

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Save the checkpoint and point the options at it."""
        given = cls.given
        model = str(cls.make(tmp_path_factory.mktemp("checkpoint")))
        cls.options = Options(model=model, layers=given.layers, extra=given.extra, device="cpu")


class TestWhisper(WithCheckpoint):
    """`whisper` with the default layers."""

    __test__ = True
    card = find_extractor("whisper")
    make = staticmethod(checkpoints.whisper)


class TestWhisperAllLayers(WithCheckpoint):
    """A named Whisper with a layer axis."""

    __test__ = True
    card = find_extractor("whisper-tiny")
    make = staticmethod(checkpoints.whisper)
    given = Options(layers="all", extra={"pool": "mean-std"})


class TestText(WithCheckpoint):
    """`hf-text` with the default layers."""

    __test__ = True
    card = find_extractor("hf-text")
    make = staticmethod(checkpoints.bert)


class TestFaceExpression(WithCheckpoint):
    """`face-expression` on the centre of the sample films."""

    __test__ = True
    card = find_extractor("face-expression")
    make = staticmethod(checkpoints.face_expression)
    given = Options(extra={"face": "center", "center": "90"})
