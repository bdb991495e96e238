"""What makes a score too good without anyone noticing: adapters that saw the labels, and copies of clips."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mer_featurestore.lineage import ancestors
from mer_plugins.adapters import CARD
from mer_zoo.errors import ZooError
from mer_zoo.trainset import HUMAN, TEST
from mer_zoo.warm import pseudo_labelled

if TYPE_CHECKING:
    from mer_featurestore import Clip, Store
    from mer_featurestore.bundles import Bundle
    from mer_zoo.runs import Run
    from mer_zoo.spaces import Inputs

_ADAPTERS, _FEATURES = "adapters/", "features/"
_SHOWN = 3


class Leak(ZooError):
    """Labels or copies of validation clips reach training by a back door; only raised when asked for."""


def leaks(
    store: "Store", inputs: "Inputs", folds: Mapping[str, int], pseudo: Sequence[str] = ()
) -> tuple[str, ...]:
    """Say what would make the scores of a training too good.

    Args:
        store: The store.
        inputs: The features that would train.
        folds: Key -> fold, of the clips that would be validated on.
        pseudo: Clips that would train in every fold.

    Returns:
        A sentence per finding; none when all is well.
    """
    clips = [store.clips[key] for key in (*folds, *pseudo)]
    return (
        *tuned_on_validation(store, inputs, folds),
        *_copies_over_folds(clips, folds),
        *copies_in_test(store, clips),
    )


def refuse(found: Sequence[str]) -> None:
    """Raise `Leak` when anything was found."""
    if found:
        raise Leak("; ".join(found), "see to these, or go on without --strict")


def tuned_on_validation(store: "Store", inputs: "Inputs", validated: Iterable[str]) -> list[str]:
    """Name the adapters under these features that were tuned on labels of clips now validated on."""
    keys, found = set(validated), []
    for chosen in inputs.chosen.values():
        above = ancestors(store.snapshot, f"{_FEATURES}{chosen.space}")
        found += _from_elsewhere(store, {f"{_FEATURES}{chosen.space}", *above})
        for ref in sorted(ref for ref in above if ref.startswith(_ADAPTERS)):
            name = ref.removeprefix(_ADAPTERS)
            if name not in store.adapters:
                found.append(
                    f"{chosen.space} comes from {ref}, which is gone: nobody knows what it was tuned on"
                )
                continue
            seen = keys & labels_seen(store, store.adapters[name])
            if seen:
                found.append(
                    f"{chosen.space} comes from {ref}, which was tuned on the labels of {len(seen)} of the "
                    f"{len(keys)} clips now validated on ({_some(seen)}): their scores will be too good"
                )
    return found


def _from_elsewhere(store: "Store", refs: Iterable[str]) -> list[str]:
    """Name the spaces among these that were extracted with an adapter from a folder."""
    names = sorted(ref.removeprefix(_FEATURES) for ref in refs if ref.startswith(_FEATURES))
    return [
        f"{name} was made with an adapter that is not in the store, so nobody knows which labels it was "
        "tuned on: take it in (mer-fs adapters add FOLDER --as NAME), and extract with "
        "--adapter NAME into another space"
        for name in names
        if name in store.features
        and "adapter" in store.features[name].spec.made_by
        and not any(ref.startswith(_ADAPTERS) for ref in ancestors(store.snapshot, f"{_FEATURES}{name}"))
    ]


def labels_seen(store: "Store", adapter: "Bundle") -> set[str]:
    """Return the clips whose labels decided the features that an adapter gives them.

    The adapter's `card.json` says so under `training` (see `mer_plugins.adapters`): `keys` are the clips;
    `folds` says for which of them there are weights that never saw their label, with which they are
    extracted. A clip that trained all folds, as pseudo-labelled ones do, is not among these. A card that does
    not say is taken at its worst: every clip that people labelled in the label layers among the adapter's
    parents was seen.
    """
    training: Mapping[str, Any] = adapter.json(CARD).get("training") or {} if CARD in adapter.files else {}
    if training:
        return set(training["keys"]) - set(training.get("folds") or ())
    layers = [p.removeprefix("labels/") for p in adapter.parents if p.startswith("labels/")]
    return {
        key
        for layer in layers
        if layer in store.labels
        for resolved in [store.labels.resolve(layer)]
        for key, source in zip(resolved.keys, resolved.source, strict=True)
        if source == HUMAN
    }


def flattered(store: "Store", run: "Run", keys: Sequence[str]) -> list[str]:
    """Say what would make a run's scores on these clips too good.

    Args:
        store: The store.
        run: What is scored.
        keys: The clips it is scored on.

    Returns:
        A sentence per finding; none when all is well.
    """
    return [
        *tuned_on_validation(store, run.config.inputs, keys),
        *pseudo_in_training(store, run, keys),
        *copies_in_training(store, run, keys),
    ]


def pseudo_in_training(store: "Store", run: "Run", keys: Iterable[str]) -> list[str]:
    """Say of how many clips a run, or one that it went on from, was trained on a pseudo-label."""
    trained = len(set(keys) & pseudo_labelled(store, run))
    return [f"{run.name} was trained on pseudo-labels of {trained} of these clips"] if trained else []


def copies_in_training(store: "Store", run: "Run", keys: Iterable[str]) -> list[str]:
    """Say how many clips are copies, under other names, of clips a run was trained on."""
    trained = {*run.config.folds, *pseudo_labelled(store, run)}
    known = {clip.content_hash for key in trained if (clip := store.clips.get(key)) and clip.content_hash}
    copies = [k for k in keys if k not in trained and store.clips[k].content_hash in known]
    if not copies:
        return []
    return [
        f"{_clips(len(copies))} of these {_are(copies)} of clips {run.name} was trained on ({_some(copies)})"
    ]


def _copies_over_folds(clips: "Sequence[Clip]", folds: Mapping[str, int]) -> list[str]:
    """Copies in several folds, or in one fold and among the clips that train in every fold."""
    sides = _by_content(clips, lambda clip: folds.get(clip.key, -1))
    torn = [keys for keys, sides_ in sides if len(sides_) > 1]
    if not torn:
        return []
    example = " and ".join(repr(key) for key in torn[0][:2])
    told = (
        f"clips with the same content are both trained and validated on ({example}, "
        f"{len(torn)} such content{'s' * (len(torn) > 1)}): scores will be too good; --group-by auto keeps "
        "copies together"
    )
    return [told]


def _by_content(clips: "Iterable[Clip]", side: "Callable[[Clip], int]") -> list[tuple[list[str], set[int]]]:
    keys: dict[str, list[str]] = defaultdict(list)
    sides: dict[str, set[int]] = defaultdict(set)
    for clip in clips:
        if clip.content_hash:
            keys[clip.content_hash].append(clip.key)
            sides[clip.content_hash].add(side(clip))
    return [(keys[content], sides[content]) for content in keys]


def copies_in_test(store: "Store", clips: "Sequence[Clip]") -> list[str]:
    """Say how many clips that train are copies, under other names, of test clips."""
    held_out = {
        clip.content_hash for clip in store.clips.values() if clip.split == TEST and clip.content_hash
    }
    copies = [clip.key for clip in clips if clip.content_hash in held_out]
    if not copies:
        return []
    told = f"{_clips(len(copies))} of the training set {_are(copies)} of test clips ({_some(copies)})"
    return [f"{told}: test scores will be too good; mer-fs duplicates lists them"]


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count > 1)}"


def _are(copies: Sequence[str]) -> str:
    return "are copies" if len(copies) > 1 else "is a copy"


def _some(keys: Iterable[str]) -> str:
    listed = sorted(keys)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
