"""Templated sentences: some tell the emotion, some fit two, many fit any."""

import numpy as np

_SLOTS = {
    "who": ("Anna", "Peter", "Maria", "my sister", "the neighbour", "Tom", "her brother", "the doctor"),
    "thing": ("the letter", "the car", "my bag", "the phone", "the house", "the ticket", "the cake"),
    "place": ("the station", "the office", "the kitchen", "the shop", "school", "the garden"),
    "when": ("today", "tonight", "on Monday", "at seven", "this morning", "after lunch"),
}

# Would be said in any mood; all that a neutral clip says.
_ANY = (
    "I saw {who} {when}.",
    "{who} is at {place}.",
    "We meet at {place} {when}.",
    "I put {thing} on the table.",
    "{who} took {thing} {when}.",
    "It is near {place}.",
    "They will call {when}.",
    "{thing} is at {place}.",
    "I talked to {who} {when}.",
    "We go to {place} {when}.",
)

# Tell one emotion.
_TELLING = {
    "angry": (
        "How dare {who} touch {thing}!",
        "I am sick of {who}!",
        "Get out of {place}, now!",
        "You broke {thing} again!",
        "Stop lying about {thing}!",
        "I have had enough {when}!",
    ),
    "happy": (
        "I love {thing}, it's great!",
        "What a lovely day {when}!",
        "{who} and I had such fun!",
        "I am so glad about {thing}!",
        "We won {thing}, hooray!",
        "It was wonderful at {place}!",
    ),
    "sad": (
        "I miss {who} so much.",
        "We lost {thing} for ever.",
        "{who} died {when}.",
        "I cried at {place}.",
        "Nothing is left of {thing}.",
        "I feel so alone {when}.",
    ),
    "worried": (
        "What if {who} is hurt?",
        "I fear for {who}.",
        "{who} is late, what if it is bad?",
        "I hope {thing} is still safe.",
        "Will {who} be all right {when}?",
        "I am nervous about {thing}.",
    ),
    "surprise": (
        "Wow, is that {thing}?",
        "Oh! I never expected {who}!",
        "What, {who} is at {place}?",
        "Really? You found {thing}?",
        "No way, {who} came {when}!",
        "Wait, {thing} was here?",
    ),
}

# Fit two emotions.
_SHARED = {
    ("angry", "worried"): ("Why does {who} not answer?", "{who} is still not at {place}!"),
    ("angry", "surprise"): ("I can't believe {who} did that!", "Who took {thing} {when}?"),
    ("happy", "surprise"): ("Look, {who} is here!", "You came {when}!"),
    ("sad", "worried"): ("I can't find {who}.", "{who} never came back."),
    ("angry", "sad"): ("{who} left me at {place}.", "You forgot {thing}."),
}
_TELLS, _FITS_TWO = 0.55, 0.25  # shares of clips with an emotion; the rest say what anybody would


def write_line(emotion: str, rng: np.random.Generator) -> str:
    """Return what a clip of this emotion says."""
    draw = rng.random()
    pool: tuple[str, ...]
    if emotion == "neutral" or draw >= _TELLS + _FITS_TWO:
        pool = _ANY
    elif draw < _TELLS:
        pool = _TELLING[emotion]
    else:
        pool = tuple(line for pair, lines in _SHARED.items() if emotion in pair for line in lines)
    filled = str(rng.choice(pool)).format(**{slot: rng.choice(words) for slot, words in _SLOTS.items()})
    return filled[0].upper() + filled[1:]
