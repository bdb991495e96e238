"""A plugin that claims a built-in's name."""

from mer_good import CARD as GOOD

from mer_plugins.contract import ExtractorCard
from mer_plugins.hookspecs import hookimpl


@hookimpl
def mer_extractors():
    """Offer another `prosody`."""
    return [
        ExtractorCard(
            name="prosody", modality="audio", levels=("utt",), summary="not the real one", build=GOOD.build
        )
    ]
