"""Errors of the zoo."""

from mer_featurestore.errors import MerError


class ZooError(MerError):
    """A model, a run, or what was asked of one, is not as it should be."""
