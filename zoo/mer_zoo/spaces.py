"""Which feature spaces feed a model: chosen by name or default, kept with fingerprints, guarded later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import FingerprintMismatch, UnknownName, suggest
from mer_featurestore.records import MODALITIES, Level, SpaceSpec
from mer_zoo.errors import ZooError
from mer_zoo.topn import modality_of, number, rank

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_zoo.contract import ModelCard


@dataclass(frozen=True, slots=True)
class Chosen:
    """One feature space as a model reads it.

    Attributes:
        space: Its name.
        fingerprint: Of the space the model was trained on.
        level: `utt` or `frame`.
        width: Features per row, D.
        layer: Which layer of a space that keeps all of them, else None.
    """

    space: str
    fingerprint: str
    level: Level
    width: int
    layer: int | None = None

    def __str__(self) -> str:
        return self.space if self.layer is None else f"{self.space}:{self.layer}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads: a space per modality, and how long sequences are thinned out.

    Attributes:
        chosen: By input: `audio`, and `audio-2` for a second encoder (`mer_zoo.topn`), modality by modality.
        max_frames: Frames a clip at most (see `mer_zoo.data.thin`); None for all.
    """

    chosen: Mapping[str, Chosen]
    max_frames: int | None = None

    @property
    def level(self) -> Level:
        """`frame` when any space has frames."""
        return "frame" if any(c.level == "frame" for c in self.chosen.values()) else "utt"

    @property
    def parents(self) -> tuple[str, ...]:
        """The spaces, as the journal names them."""
        return tuple(sorted({f"features/{c.space}" for c in self.chosen.values()}))

    def to_json(self) -> dict[str, Any]:
        """Return the inputs as plain JSON values."""
        features = {
            name: {
                "space": c.space,
                "fingerprint": c.fingerprint,
                "level": c.level,
                "width": c.width,
                "layer": c.layer,
            }
            for name, c in self.chosen.items()
        }
        return {"features": features, "max_frames": self.max_frames}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Inputs":
        """Undo `to_json`."""
        features = {name: Chosen(**facts) for name, facts in document["features"].items()}
        return cls(features, document["max_frames"])


def choose(
    store: "Store",
    card: "ModelCard",
    names: Mapping[str, str] | Sequence[str] | None = None,
    *,
    level: Level | None = None,
    max_frames: int | None = None,
) -> Inputs:
    """Decide which spaces feed a model.

    Args:
        store: The store.
        card: The model's card.
        names: Spaces, as a list or by input (`audio`, `audio-2`, see `mer_zoo.topn`); `space:3` is layer 3 of
            a space that keeps all layers. None takes the only space of each modality.
        level: Which level to take by default; None takes `utt`.
        max_frames: Kept with the result.

    Raises:
        UnknownName: No such space.
        ZooError: Several spaces could be meant, two are of one modality and the model takes one, or there are
            too few or too many.
    """
    if max_frames is not None and max_frames < 1:
        raise ZooError(f"at most {max_frames} frames leave nothing of a clip", "use --max-frames 1 or more")
    if not names:
        names = _defaults(store, level or "utt")
    if isinstance(names, Mapping):
        _check_modalities(store, names)
        found = {name: _look_up(store, space)[1] for name, space in names.items()}
    else:
        found = _by_modality([_look_up(store, space) for space in names])
    _check_doubles(card, found)
    _check_count(card, found)
    return Inputs({name: found[name] for name in sorted(found, key=rank)}, max_frames)


def guard(store: "Store", inputs: Inputs, run: str) -> None:
    """Refuse features that were made otherwise than those a run was trained on.

    Raises:
        UnknownName: A space is no longer in the store.
        FingerprintMismatch: A space of that name has another fingerprint; both are shown.
    """
    for chosen in inputs.chosen.values():
        now = store.features[chosen.space].fingerprint
        if now != chosen.fingerprint:
            raise FingerprintMismatch(
                f"{run} was trained on {chosen.space!r} with fingerprint {chosen.fingerprint[:16]}…, "
                f"and the store's {chosen.space!r} has {now[:16]}…: these features were made otherwise",
                "extract them with the run's settings, or train again",
            )


def _defaults(store: "Store", level: Level) -> dict[str, str]:
    specs: list[SpaceSpec] = [space.spec for space in store.features.values()]
    if not specs:
        raise ZooError("there are no features in the store", "extract some: mer-fs extract --plugin …")
    names: dict[str, str] = {}
    for modality in MODALITIES:
        fitting = sorted(s.name for s in specs if s.modality == modality and s.level == level)
        if len(fitting) > 1:
            raise ZooError(
                f"several {modality} spaces could be meant: {', '.join(fitting)}",
                "choose with --features a,b,c",
            )
        if fitting:
            names[modality] = fitting[0]
    if not names:
        raise ZooError(
            f"there are no {level}-level features in the store",
            "there are: " + ", ".join(sorted(s.name for s in specs)) + "; choose with --features a,b,c",
        )
    return names


def _look_up(store: "Store", name: str) -> tuple[str, Chosen]:
    stem, _, layer = name.partition(":")
    if stem not in store.features:
        raise UnknownName("feature space", stem, store.features, _remedy(stem, store))
    spec = store.features[stem].spec
    return spec.modality, Chosen(
        stem, spec.fingerprint, spec.level, spec.row_shape[-1], _layer(spec, layer or None)
    )


def _remedy(name: str, store: "Store") -> str:
    if len(store.features):
        return suggest(name, store.features)
    return "there are no features yet; extract some: mer-fs extract --plugin …"


def _layer(spec: SpaceSpec, layer: str | None) -> int | None:
    if len(spec.row_shape) == 1 and layer is None:
        return None
    if len(spec.row_shape) != 2:
        raise ZooError(f"{spec.name!r} keeps no layers: its rows have the shape {spec.row_shape}")
    if layer is None or not layer.isdecimal() or int(layer) >= spec.row_shape[0]:
        raise ZooError(
            f"{spec.name!r} keeps {spec.row_shape[0]} layers, and a model reads one",
            f"say which: --features {spec.name}:0 … {spec.name}:{spec.row_shape[0] - 1}",
        )
    return int(layer)


def _by_modality(spaces: Sequence[tuple[str, Chosen]]) -> dict[str, Chosen]:
    return dict(
        zip(number([modality for modality, _ in spaces]), (chosen for _, chosen in spaces), strict=True)
    )


def _check_modalities(store: "Store", names: Mapping[str, str]) -> None:
    for name, space in names.items():
        actual, _ = _look_up(store, space)
        if actual != modality_of(name):
            raise ZooError(f"{space!r} is given as {name}, and it is {actual}")


def _check_doubles(card: "ModelCard", found: Mapping[str, Chosen]) -> None:
    if card.modalities[1] > len(MODALITIES):  # it takes several encoders per modality
        return
    for name, chosen in found.items():
        modality = modality_of(name)
        if name != modality:
            raise ZooError(
                f"{found.get(modality, 'another space')} and {chosen} are both {modality}",
                "name one space per modality in --features, or train attention-topn, which takes several",
            )


def _check_count(card: "ModelCard", found: Mapping[str, Chosen]) -> None:
    least, most = card.modalities
    if not least <= len(found) <= most:
        raise ZooError(
            f"{card.name} takes {least} to {most} modalities, and {len(found)} are given: "
            + ", ".join(map(str, found.values())),
            "change --features",
        )
