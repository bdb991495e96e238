"""Fusion models, training, metrics and pseudo-label rounds."""
