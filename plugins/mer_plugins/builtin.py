"""The built-in extractors, offered through the same hook as everybody's."""

from mer_plugins.audio import prosody, ssl, whisper
from mer_plugins.contract import ExtractorCard
from mer_plugins.hookspecs import hookimpl
from mer_plugins.text import baichuan, char_ngrams, decoder, encoders, hf_text
from mer_plugins.video import clips, face_expression, face_pixels, image

FAMILIES = (
    prosody,
    face_pixels,
    char_ngrams,
    whisper,
    ssl,
    face_expression,
    image,
    clips,
    hf_text,
    encoders,
    decoder,
    baichuan,
)


@hookimpl
def mer_extractors() -> tuple[ExtractorCard, ...]:
    """Return the cards, in the order in which they are listed."""
    return tuple(card for family in FAMILIES for card in family.CARDS)
