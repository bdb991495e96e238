"""What is decided before anything heavy is loaded: clips, extractor, layers, device, name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.errors import NameTaken, StoreError
from mer_featurestore.names import check_name
from mer_featurestore.records import canonical_json
from mer_plugins.contract import ExtractorCard
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.transformer import TransformerExtractor
from mer_zoo.errors import ZooError
from mer_zoo.guards import copies_in_test
from mer_zoo.trainset import TrainSet, default_layer, train_set
from mer_zoo.tuning.parts import divide
from mer_zoo.tuning.settings import TuneRequest, TuneSettings

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_plugins.tunable import Method


@dataclass(frozen=True, slots=True)
class Selection:
    """A tuning that makes sense as far as can be told without weights and media.

    Attributes:
        request: What was asked for, its label layer filled in.
        card: Of the extractor.
        extractor: Not loaded.
        layers: To adapt, numbered as in extraction; None for all.
        probe: The probe run they are from; empty when there was none.
        chosen: Labelled clips that have the modality.
        left_out: Key -> why it has no part in this.
    """

    request: TuneRequest
    card: ExtractorCard
    extractor: TransformerExtractor[Any]
    layers: tuple[int, ...] | None
    probe: str
    chosen: TrainSet
    left_out: Mapping[str, str]

    def plan(self) -> dict[str, Any]:
        """Return everything that decides the result, for a work folder to be recognised by."""
        chosen = self.chosen
        facts = [chosen.keys, chosen.classes, chosen.label.tolist(), chosen.human.tolist()]
        whole = hashlib.sha256(canonical_json(facts))
        whole.update(chosen.probs.tobytes() + chosen.confidence.tobytes())
        return {
            **self.request.to_json(),
            "layers": list(self.layers) if self.layers is not None else "all",
            "made_by": dict(self.extractor.made_by()),
            "clips": whole.hexdigest(),
        }


def select(store: "Store", request: TuneRequest) -> Selection:
    """Look at everything a tuning needs.

    Raises:
        NameTaken: There is an adapter of that name.
        UnknownName: No such plugin, layer, split, option …
        ZooError: The plugin cannot be tuned, or there are no clips.
        PluginError: Its layers cannot be adapted.
    """
    check_name_is_free(store, request.name)
    card = find_extractor(request.plugin)
    _check_card(card)
    request = replace(request, labels=request.labels or default_layer(store))
    chosen = train_set(store, str(request.labels), request.split)
    has = np.array([clip.has(card.modality) for clip in chosen.clips], np.bool_)
    left_out = {
        clip.key: f"has no {card.modality}" for clip, h in zip(chosen.clips, has, strict=True) if not h
    }
    if not (has & chosen.human).any():
        raise ZooError(
            f"none of the {int(chosen.human.sum())} labelled clips has {card.modality}",
            f"ingest a catalogue with a column {card.modality}, or tune another encoder",
        )
    kept = chosen.take(has)
    kept = replace(kept, notices=(*kept.notices, *copies_in_test(store, kept.clips)))
    # Divided again once media are read; what cannot be is told before an encoder is fetched.
    divide(kept, folds=request.folds, all_data=request.all_data, seed=request.seed, group_by=request.group_by)
    extractor = make_extractor(card, request.options)
    if not isinstance(extractor, TransformerExtractor):
        raise ZooError(f"{card.name} is no encoder that can be tuned", "mer-fs plugins lists encoders")
    layers, probe = _layers(store, request, card, extractor)
    return Selection(request, card, extractor, layers, probe, kept, left_out)


def check_name_is_free(store: "Store", name: str) -> None:
    """Refuse what could not be stored before hours of work, not after."""
    if store.read_only:
        raise StoreError(
            f"{store.url} is opened at commit {store.commit}, which is past", "open it without at"
        )
    check_name(name, "adapter")
    if name in store.adapters:
        raise NameTaken(f"there is an adapter {name!r} already, and it never changes", "choose another --as")


def _check_card(card: ExtractorCard) -> None:
    if not card.takes_adapter:
        raise ZooError(
            f"{card.name} takes no adapter, so there is nothing to tune",
            "mer-fs plugins lists the encoders; those with layers can be tuned",
        )
    if card.adapter:
        raise ZooError(
            f"{card.name} is a base model with the adapter {card.adapter!r} in it",
            f"tune the base: mer-zoo tune {card.adapter.removesuffix('-lora')} --as {card.adapter}",
        )


def _layers(
    store: "Store", request: TuneRequest, card: ExtractorCard, extractor: TransformerExtractor[Any]
) -> tuple[tuple[int, ...] | None, str]:
    """Return the layers to adapt and the probe they are from; refuse what cannot be trained."""
    if len(extractor.row_shape) != 1:
        raise ZooError(
            f"rows of {card.name} have the shape {tuple(extractor.row_shape)}",
            "choose layers that are summed, e.g. --rows last4",
        )
    chosen, probe = None, ""
    if request.layers == "best" and request.settings.method != "full":
        from mer_zoo.probing import best_band

        checkpoint = extractor.made_by().get("checkpoint")
        band = best_band(store, request.plugin, request.probe, checkpoint=checkpoint)
        chosen, probe = band.layers, band.run
    elif request.layers not in ("best", "all"):
        chosen = read_layers(request.layers)
    method_of(request.settings, chosen).blocks(extractor)
    return chosen, probe


def method_of(settings: TuneSettings, layers: tuple[int, ...] | None) -> "Method":
    """Return what an encoder is told to train."""
    from mer_plugins.tunable import Method

    return Method(
        name=settings.method,
        layers=layers,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.targets,
        bottleneck=settings.bottleneck,
    )


def read_layers(text: str) -> tuple[int, ...]:
    """Read one layer `k` or a band `i-j`.

    Raises:
        ZooError: It is neither.
    """
    first, dash, last = text.strip().partition("-")
    if first.isdecimal() and (last.isdecimal() if dash else True) and int(first) <= int(last or first):
        return tuple(range(int(first), int(last or first) + 1))
    raise ZooError(f"cannot read the layers {text!r}", "say best, all, one layer k, or a band i-j")
