"""The fusion-model contract: a card that can be listed for nothing, and the torch module it builds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sequences(NamedTuple):
    """One modality of a batch: features `[B, T, D]` float, mask `[B, T]` bool (True = a real frame).

    An utterance-level vector is a sequence of T = 1; a modality missing for a clip is a mask row of False.
    """

    features: "Tensor"
    mask: "Tensor"


Batch = Mapping[str, Sequences]


class Output(NamedTuple):
    """What a model returns: logits `[B, C]`, and extra losses (scalars) added to the cross-entropy."""

    logits: "Tensor"
    losses: Mapping[str, "Tensor"] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is known of a fusion model before torch is imported.

    Attributes:
        name: As typed after `mer-zoo train`.
        summary: One line for `mer-zoo models`.
        paper: Where it comes from; says *reconstructed* where the paper leaves it open.
        build: `build(inputs={modality: D}, classes=C, **params)` → a module: `Batch` → `Output`.
        params: Its parameters with their defaults. What is given for a number must be finite, and 0 or more
            where the default is above 0.
        search: Values a random search draws from, per parameter (and `lr`, `weight_decay` …).
        frames: Whether it can read sequences (T > 1); one that cannot is given masked means.
        modalities: How many modalities it takes at least and at most.
    """

    name: str
    summary: str
    paper: str
    build: Callable[..., "nn.Module"]
    params: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    frames: bool = True
    modalities: tuple[int, int] = (1, 3)
