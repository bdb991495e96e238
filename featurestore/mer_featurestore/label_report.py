"""Questions about labels: what differs between two layers, why a clip has its label, how a layer looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_featurestore.label_layer import NO_CLASS, SOURCES, LabelLayer
from mer_featurestore.resolve import Resolved, counted


@dataclass(frozen=True, eq=False)
class Diff:
    """What changed from layer `a` to layer `b`.

    Attributes:
        a: Name of the older layer.
        b: Name of the newer one.
        classes: The classes of both, `a`'s order first.
        added: Key -> class, labelled in `b` only.
        removed: Key -> class, labelled in `a` only.
        flips: Key -> (class in `a`, class in `b`), where they differ.
        matrix: int64 `[C, C]`, clips labelled in both: rows the class in `a`, columns the class in `b`.
    """

    a: str
    b: str
    classes: tuple[str, ...]
    added: Mapping[str, str]
    removed: Mapping[str, str]
    flips: Mapping[str, tuple[str, str]]
    matrix: NDArray[np.int64]

    @property
    def unchanged(self) -> int:
        """Clips with the same class in both."""
        return int(np.trace(self.matrix))

    def per_class(self) -> dict[str, dict[str, int]]:
        """Return class -> clips `added`, `removed`, `flipped_to` and `flipped_from` it, and `unchanged`."""
        added, removed = counted(self.added.values()), counted(self.removed.values())
        same = np.diag(self.matrix)
        to, away = self.matrix.sum(axis=0) - same, self.matrix.sum(axis=1) - same
        return {
            c: {
                "added": added.get(c, 0),
                "removed": removed.get(c, 0),
                "flipped_to": int(to[i]),
                "flipped_from": int(away[i]),
                "unchanged": int(same[i]),
            }
            for i, c in enumerate(self.classes)
        }

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.flips)


def diff(a: Resolved, b: Resolved) -> Diff:
    """Compare what two (resolved) layers say, clip by clip; classes are matched by name."""
    classes = tuple(dict.fromkeys([*a.classes, *b.classes]))
    index = {c: i for i, c in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    flips: dict[str, tuple[str, str]] = {}
    for key in a.keys:
        if key not in b:
            continue
        old, new = a[key], b[key]
        matrix[index[old], index[new]] += 1
        if old != new:
            flips[key] = (old, new)
    added = {key: b[key] for key in b.keys if key not in a}
    removed = {key: a[key] for key in a.keys if key not in b}
    return Diff(a.name, b.name, classes, added, removed, flips, matrix)


@dataclass(frozen=True)
class Saying:
    """What one layer says about a clip.

    Attributes:
        layer: Its name.
        label: The class; None for none.
        confidence: 0 to 1.
        source: `human` or `pseudo`.
        kept: Whether the layer lets it count.
        reason: Why, in the words of who made the layer.
        votes: Member -> the class it voted for; None where it abstained.
        probs: Class -> probability.
        verdict: What became of it: `decides`, `dropped`, `agrees with …`, `overruled by …`.
    """

    layer: str
    label: str | None
    confidence: float
    source: str
    kept: bool
    reason: str
    votes: Mapping[str, str | None]
    probs: Mapping[str, float]
    verdict: str


@dataclass(frozen=True)
class Blame:
    """Why a clip has the label it has under a layer: what every layer of the stack says, nearest first."""

    key: str
    layer: str
    label: str | None
    decided_by: str | None
    sayings: tuple[Saying, ...]


def blame(stack: Sequence[LabelLayer], resolved: Resolved, key: str) -> Blame:
    """Explain the label of a clip.

    Args:
        stack: The layer first, then what it stands on, as given to `resolve`.
        resolved: What they say together.
        key: Of the clip.

    Raises:
        UnknownName: No layer of the stack says anything about the clip.
    """
    speaking = [layer for layer in stack if key in layer]
    if not speaking:
        known = [key for layer in stack for key in layer.keys]
        raise UnknownName(f"clip in label layer {stack[0].name!r} or what it stands on", key, known)
    decided_by = resolved.layer_of[resolved.row(key)] if key in resolved else None
    sayings = tuple(_saying(layer, key, decided_by, speaking) for layer in speaking)
    return Blame(key, stack[0].name, resolved.get(key), decided_by, sayings)


def _saying(layer: LabelLayer, key: str, decided_by: str | None, speaking: Sequence[LabelLayer]) -> Saying:
    row = layer.row(key)
    votes = {
        member: layer.classes[v] if (v := int(layer.votes[row, m])) != NO_CLASS else None
        for m, member in enumerate(layer.members)
    }
    return Saying(
        layer.name,
        layer[key],
        float(layer.confidence[row]),
        SOURCES[layer.source[row]],
        bool(layer.kept[row]),
        layer.reason[row],
        votes,
        {c: float(p) for c, p in zip(layer.classes, layer.probs[row], strict=True)},
        _verdict(layer, row, decided_by, speaking),
    )


def _verdict(layer: LabelLayer, row: int, decided_by: str | None, speaking: Sequence[LabelLayer]) -> str:
    if layer.name == decided_by:
        return "decides"
    if not layer.kept[row]:
        return "dropped"
    if decided_by is None:
        return f"overruled by {speaking[0].name}, which dropped the clip"
    decider = next(other for other in speaking if other.name == decided_by)
    if decider[layer.keys[row]] == layer[layer.keys[row]]:
        return f"agrees with {decided_by}"
    kind = SOURCES[decider.source[decider.row(layer.keys[row])]]
    return f"overruled by {decided_by} ({kind})"


@dataclass(frozen=True)
class MemberStats:
    """How one member voted, over kept rows: votes cast, abstentions, the share equal to the label."""

    voted: int
    abstained: int
    agreement: float


@dataclass(frozen=True)
class LayerStats:
    """A layer in numbers.

    Attributes:
        rows: Clips the layer says something about.
        kept: Those that count.
        counts: Class -> kept clips.
        sources: `human`, `pseudo` -> kept clips.
        dropped: Reason -> dropped clips.
        confidence: `min`, `median`, `mean` over kept clips; empty without any.
        entropy: Mean entropy of the probability vectors of kept clips, bits.
        class_entropy: Entropy of the class distribution, bits (log2 C when balanced).
        members: Member -> how it voted.
        unanimous: Share of kept clips with votes on which all voting members agree; NaN without votes.
    """

    rows: int
    kept: int
    counts: Mapping[str, int]
    sources: Mapping[str, int]
    dropped: Mapping[str, int]
    confidence: Mapping[str, float]
    entropy: float
    class_entropy: float
    members: Mapping[str, MemberStats]
    unanimous: float


def stats(layer: LabelLayer) -> LayerStats:
    """Return the layer (by itself, not resolved) in numbers."""
    kept = layer.kept
    counts = layer.counts()
    total = max(1, int(kept.sum()))
    share = np.array(list(counts.values()), np.float64) / total
    confidence = layer.confidence[kept].astype(np.float64)
    return LayerStats(
        rows=len(layer),
        kept=int(kept.sum()),
        counts=counts,
        sources=counted(SOURCES[s] for s in layer.source[kept]),
        dropped=counted(layer.reason[i] or "no reason given" for i in np.flatnonzero(~kept)),
        confidence={
            name: float(f(confidence))
            for name, f in (("min", np.min), ("median", np.median), ("mean", np.mean))
        }
        if len(confidence)
        else {},
        entropy=float(np.mean(_entropy(layer.probs[kept].astype(np.float64)))) if kept.any() else 0.0,
        class_entropy=float(_entropy(share[None])[0]),
        members={m: _member(layer, i) for i, m in enumerate(layer.members)},
        unanimous=_unanimous(layer.votes[kept]),
    )


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row in bits, `[n]`."""
    terms = np.zeros_like(p)
    np.multiply(p, np.log2(p, where=p > 0, out=np.zeros_like(p)), out=terms)
    return np.asarray(-terms.sum(axis=1))


def _member(layer: LabelLayer, column: int) -> MemberStats:
    votes, label = layer.votes[layer.kept, column], layer.label[layer.kept]
    voted = votes != NO_CLASS
    agreement = float((votes == label)[voted].mean()) if voted.any() else float("nan")
    return MemberStats(int(voted.sum()), int((~voted).sum()), agreement)


def _unanimous(votes: NDArray[np.int16]) -> float:
    voted = votes != NO_CLASS
    rows = voted.any(axis=1) if votes.size else np.zeros(len(votes), np.bool_)
    if not rows.any():
        return float("nan")
    high = votes[rows].max(axis=1)
    low = np.where(voted, votes, np.iinfo(np.int16).max)[rows].min(axis=1)
    return float((high == low).mean())
