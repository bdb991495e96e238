"""Several encoders per modality: how their inputs are named, and which of them to take.

A model's input is named after its modality, `audio`, and a second and third encoder of that modality are
`audio-2`, `audio-3`, best first. Light: no torch.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from mer_featurestore.records import MODALITIES, Modality
from mer_zoo.errors import ZooError

_INPUT = re.compile(r"(?P<modality>[a-z]+)(-(?P<rank>[2-9]|[1-9][0-9]+))?")


def modality_of(name: str) -> Modality:
    """Return the modality of an input: `audio` for `audio` and for `audio-2`.

    Raises:
        ZooError: The name is not of that form.
    """
    match = _INPUT.fullmatch(name)
    if match is None or match["modality"] not in MODALITIES:
        raise ZooError(
            f"no modality is meant by the input name {name!r}",
            "name inputs audio, video or text, and further encoders of one audio-2, audio-3 …",
        )
    return cast("Modality", match["modality"])


def rank(name: str) -> tuple[int, int]:
    """Return where an input stands: by modality, then by its number."""
    modality = modality_of(name)
    return MODALITIES.index(modality), int(name.removeprefix(modality).removeprefix("-") or 1)


def number(modalities: Iterable[str]) -> list[str]:
    """Name inputs after their modalities, in the order given: the second `audio` is `audio-2`."""
    counts: Counter[str] = Counter()
    names = []
    for modality in modalities:
        counts[modality] += 1
        names.append(modality if counts[modality] == 1 else f"{modality}-{counts[modality]}")
    return names


def best(scores: Mapping[str, float], modalities: Mapping[str, str], n: int) -> dict[str, str]:
    """Take the best `n` feature spaces of each modality by the validation score of a probe on each alone.

    Args:
        scores: Validation score per space, higher is better; equal scores go by name.
        modalities: Modality per space.
        n: How many of each modality at most.

    Returns:
        `{input: space}`, e.g. `{"audio": …, "audio-2": …, "video": …}`, best first within a modality.

    Raises:
        ZooError: `n` below 1, or a scored space whose modality is not given.
    """
    if n < 1:
        raise ZooError(f"the best {n} spaces of a modality are none", "take n of at least 1")
    unknown = sorted(set(scores) - set(modalities))
    if unknown:
        raise ZooError(
            f"the modality of {unknown[0]!r} is not known", "give the modality of every scored space"
        )
    ranked = sorted(scores, key=lambda space: (-scores[space], space))
    taken = [space for m in MODALITIES for space in [s for s in ranked if modalities[s] == m][:n]]
    return dict(zip(number(modalities[space] for space in taken), taken, strict=True))
