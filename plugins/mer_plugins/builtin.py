"""The built-in extractors, offered through the same hook as everybody's."""

from mer_plugins.audio import prosody
from mer_plugins.contract import ExtractorCard
from mer_plugins.hookspecs import hookimpl
from mer_plugins.text import char_ngrams
from mer_plugins.video import face_pixels


@hookimpl
def mer_extractors() -> tuple[ExtractorCard, ...]:
    """Return the cards, in the order in which they are listed."""
    return (*prosody.CARDS, *face_pixels.CARDS, *char_ngrams.CARDS)
