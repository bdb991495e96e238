"""Errors of the extraction floor."""

from mer_featurestore.errors import MerError


class PluginError(MerError):
    """A plugin, or what was asked of one, is not as it should be."""


class ClipError(MerError):
    """One clip cannot be read or encoded; it is quarantined with this reason and the run goes on."""
