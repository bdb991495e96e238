"""Who speaks, in which split, with which emotion, and which clips are broken: the corpus on paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mer_plugins.synthetic.acting import EMOTIONS
from mer_plugins.synthetic.looks import Look, cast_look
from mer_plugins.synthetic.voice import Throat, cast_throat

Flaw = Literal["", "truncated video", "empty sound", "no audio stream", "empty transcript", "no face"]
FLAWS: tuple[Flaw, ...] = ("truncated video", "empty sound", "no audio stream", "empty transcript", "no face")

# Worried and sad are rarer among the labelled clips than in what a model will meet; in EMOTIONS' order.
_LABELLED = (0.27, 0.22, 0.22, 0.09, 0.08, 0.12)
_MET = (0.18, 0.16, 0.17, 0.17, 0.18, 0.14)
SHARES: Mapping[str, tuple[float, ...]] = {"train": _LABELLED, "unlabeled": _MET, "test": _MET}

_MOST_SPEAKERS = 8  # in each split
_CLIPS_A_SPEAKER = 5  # at least, while there are fewer speakers


@dataclass(frozen=True, slots=True)
class Speaker:
    """A person of the corpus: the same voice and face in every clip."""

    name: str
    look: Look
    throat: Throat


@dataclass(frozen=True, slots=True)
class Part:
    """One clip to be made; `index` seeds whatever is drawn for it."""

    key: str
    index: int
    split: str
    emotion: str
    speaker: Speaker
    flaw: Flaw = ""


def cast(seed: int, sizes: Mapping[str, int], broken: int) -> list[Part]:
    """Plan a corpus of `sizes[split]` sound clips and `broken` broken ones; speakers stay within a split."""
    rng = np.random.default_rng([seed, 0])
    plan: list[tuple[str, str, Flaw]] = []
    for split, size in sizes.items():
        plan += [(split, emotion, "") for emotion in _deal(size, SHARES[split], rng)]
    for i in range(broken):
        split = ("unlabeled", "train")[i % 2]
        plan.append((split, str(rng.choice(EMOTIONS, p=SHARES[split])), FLAWS[i % len(FLAWS)]))
    crowd = _crowd(seed, sizes)
    order = rng.permutation(len(plan))
    turns = dict.fromkeys(sizes, 0)
    parts = []
    for index, (split, emotion, flaw) in enumerate(plan[i] for i in order):
        speaker = crowd[split][turns[split] % len(crowd[split])]
        turns[split] += 1
        parts.append(Part(f"clip{index + 1:04d}", index, split, emotion, speaker, flaw))
    return parts


def _deal(size: int, shares: tuple[float, ...], rng: np.random.Generator) -> list[str]:
    """Give each emotion its share of the clips, the remainder to the largest fractions, in random order."""
    exact = np.array(shares) * size
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[: size - counts.sum()]] += 1
    return [str(e) for e in rng.permutation(np.repeat(EMOTIONS, counts))]


def _crowd(seed: int, sizes: Mapping[str, int]) -> dict[str, list[Speaker]]:
    crowd: dict[str, list[Speaker]] = {}
    number = 0
    for split, size in sizes.items():
        crowd[split] = []
        for _ in range(min(_MOST_SPEAKERS, max(2, size // _CLIPS_A_SPEAKER))):
            number += 1
            rng = np.random.default_rng([seed, 1, number])
            crowd[split].append(Speaker(f"speaker{number:02d}", cast_look(rng), cast_throat(rng)))
    return crowd
