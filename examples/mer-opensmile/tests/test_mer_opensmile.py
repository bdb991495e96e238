"""The plugin passes the conformance kit that mer-fs ships; run with `pytest examples/mer-opensmile`."""

import mer_opensmile
import numpy as np
import pytest

from mer_plugins.contract import Options
from mer_plugins.testing import ExtractorTests

pytest.importorskip("opensmile", reason="needs opensmile: pip install opensmile")

FUNCTIONALS, DESCRIPTORS = mer_opensmile.mer_extractors()


class TestEGeMAPS(ExtractorTests):
    """The 88 functionals."""

    card = FUNCTIONALS


class TestEGeMAPSDescriptors(ExtractorTests):
    """The 25 low-level descriptors."""

    card = DESCRIPTORS


def test_pitch_of_a_tone() -> None:
    """A tone of 220 Hz is 36 semitones above 27.5 Hz, the first functional of eGeMAPS."""
    extractor = mer_opensmile.EGeMAPS(Options(), "utt")
    extractor.load()
    seconds = np.arange(2 * mer_opensmile.RATE, dtype=np.float32) / mer_opensmile.RATE
    harmonics = sum(np.sin(2 * np.pi * 220 * k * seconds) / k for k in range(1, 12)) / 3
    assert extractor.encode([harmonics.astype(np.float32)])[0][0, 0] == pytest.approx(36, abs=0.2)
