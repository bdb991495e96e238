"""A plugin whose hook fails."""

from mer_plugins.hookspecs import hookimpl


@hookimpl
def mer_extractors():
    """Fail."""
    raise RuntimeError("the licence has expired")
