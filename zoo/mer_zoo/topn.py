"""Several encoders per modality: how their inputs are named, and which of them to take.

A model's input is named after its modality, `audio`, and a second and third encoder of that modality are
`audio-2`, `audio-3`, best first. Light: no torch.
"""

import re
from collections.abc import Iterable, Mapping

from mer_featurestore.records import MODALITIES
from mer_zoo.errors import ZooError

_INPUT = re.compile(r"(?P<modality>[a-z]+)(-(?P<rank>[2-9]|[1-9][0-9]+))?")


def modality_of(name: str) -> str:
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
    return match["modality"]


def number(spaces: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name inputs after their modality, in the order given: `(modality, space)` pairs → `{input: space}`."""
    inputs: dict[str, str] = {}
    counts: dict[str, int] = {}
    for modality, space in spaces:
        counts[modality] = counts.get(modality, 0) + 1
        inputs[modality if counts[modality] == 1 else f"{modality}-{counts[modality]}"] = space
    return inputs


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
    taken = [(m, s) for m in MODALITIES for s in [x for x in ranked if modalities[x] == m][:n]]
    return number(taken)
