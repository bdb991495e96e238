"""Probing encoders: which hidden layers know the emotion, and what a linear classifier makes of a space."""

from mer_zoo.probing.band import Band, best_band, choose_band

__all__ = ["Band", "best_band", "choose_band"]
