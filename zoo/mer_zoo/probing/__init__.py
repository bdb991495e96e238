"""Probing encoders: which hidden layers know the emotion, and what a linear classifier makes of a space."""

from mer_zoo.probing.band import Band, best_band, choose_band
from mer_zoo.probing.data import Course
from mer_zoo.probing.layers import LayerProbe, probe_layers
from mer_zoo.probing.space import ProbeScores, compare, probe

__all__ = [
    "Band",
    "Course",
    "LayerProbe",
    "ProbeScores",
    "best_band",
    "choose_band",
    "compare",
    "probe",
    "probe_layers",
]
