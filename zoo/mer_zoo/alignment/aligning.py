"""`align`: choose clips, train a head, measure retrieval, keep the adapter and a record of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mer_featurestore.errors import NameTaken
from mer_plugins.deriving import derive, project
from mer_plugins.fitting import keep_projection
from mer_plugins.plan import stem_of
from mer_zoo.alignment.baselines import FIT_ON, baselines
from mer_zoo.alignment.fitting import FittedHead, Told, Views, apply, fit_head, numbered
from mer_zoo.alignment.head import folded
from mer_zoo.alignment.pairs import Pairs, choose_pairs, find_space
from mer_zoo.alignment.retrieval import AT, Found, chance, few, oracle, retrieve, to_json
from mer_zoo.alignment.rows import Rows, View
from mer_zoo.alignment.settings import AlignSettings
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.probing import compare, probe
from mer_zoo.runs import dump
from mer_zoo.truth import human_labels
from mer_zoo.tuning.selection import check_name_is_free

if TYPE_CHECKING:
    from mer_featurestore import Store

ALIGNMENT = "alignment"
ALIGNED = "aligned"


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """An alignment that is in the store.

    Attributes:
        adapter: Name of the adapter.
        record: Name of the record among the runs; it holds `metrics.json` and `history.json`.
        metrics: What `metrics.json` says: `clips`, `retrieval`, `gain`, `chance`, `oracle`, `probe` …
        notices: What a person should know.
    """

    adapter: str
    record: str
    metrics: Mapping[str, Any]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        plain = {"adapter": self.adapter, "record": self.record}
        return {**plain, **self.metrics, "notices": list(self.notices)}


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is aligned to what, and on which clips.

    Attributes:
        visual: A space, or `<visual>-UTT` is.
        to: The acoustic space, or `<to>-UTT` is; its features stay as they are.
        name: Of the adapter.
        splits: Clips of these train; their labels are not used.
        held_out: Split that retrieval is measured on; empty holds out groups of `splits`.
        group_by: What is never divided between the parts.
        labels: A label layer for linear probes before and after, on its human-labelled clips of `train`;
            empty for none.
        judge: A label layer that knows classes of held-out clips, for retrieval by class; empty for none.
        device: Where to train.
        command: For the journal.
        message: For the journal.
    """

    visual: str
    to: str
    name: str
    splits: tuple[str, ...] = ("unlabeled",)
    held_out: str = ""
    group_by: str = "auto"
    labels: str = ""
    judge: str = ""
    device: str = "auto"
    command: str = ""
    message: str = ""


def align(
    store: "Store", aim: Aim, settings: AlignSettings | None = None, told: Told | None = None
) -> Alignment:
    """Train a projection of stored visual features into the space of stored acoustic ones.

    The acoustic features are frozen; standardisation on both sides is folded into the projection, so that it
    maps a visual row as it is stored to a row in the units of the acoustic space. It is kept as an adapter,
    with a record of how well held-out clips' faces find their voices. With `labels` the aligned space is
    derived and both spaces are probed on the same clips.

    Args:
        store: The store; moves to the commits.
        aim: What to align.
        settings: How.
        told: Called with epochs done, of how many.

    Raises:
        UnknownName: No such space, split or layer.
        ZooError: The spaces, the clips or the settings cannot be used.
        NameTaken: There is an adapter of that name.
        Diverged: The loss became infinite or NaN.
    """
    settings = settings or AlignSettings()
    visual, acoustic = find_space(store, aim.visual), find_space(store, aim.to)
    if visual.name == acoustic.name:
        raise ZooError(f"{visual.name} is aligned to itself", "name an acoustic space: --to SPACE")
    check_aim(store, aim)
    pairs = choose_pairs(
        store, (visual, acoustic), aim.splits,
        held_out=aim.held_out, group_by=aim.group_by, seed=settings.seed,
    )  # fmt: skip
    classes = classes_of(store, aim.judge, pairs.held)
    keys = [*pairs.train, *pairs.valid, *pairs.held]
    views = views_of(store, pairs, Rows(visual, keys, pairs.train), Rows(acoustic, keys, pairs.train))
    fitted = fit_head(views, settings, device=find_device(aim.device), told=told)
    found = [through(ALIGNED, fitted, views, pairs, classes), *without(views, pairs, classes, settings.seed)]
    metrics = {
        "visual": visual.name, "acoustic": acoustic.name, "settings": settings.to_json(),
        **facts_of(pairs), "best_epoch": fitted.best, **score(found, classes),
    }  # fmt: skip
    projection = folded(fitted.head, views.visual.standard, views.acoustic.standard, fitted.length)
    keep_projection(
        store, aim.name, projection, visual.spec,
        facts={"metrics": metrics},
        alignment={"aligned_to": acoustic.name, "keys": [*pairs.train, *pairs.valid]},
        command=aim.command, message=aim.message,
    )  # fmt: skip
    notices = [*pairs.notices, *late(fitted.best, settings.epochs)]
    if aim.labels:
        made = derive(store, visual.name, aim.name, project(store, aim.name), command=aim.command)
        metrics |= {"probe": probed(store, aim, visual.name, made.space)}
    return record(store, aim, metrics, fitted.history, notices)


def check_aim(store: "Store", aim: Aim) -> None:
    """Refuse before anything is trained what could not be kept or measured.

    Raises:
        NameTaken: There is an adapter of that name or, where rows are probed, a space.
        StoreError: The store cannot be written.
        UnknownName: No such label layer.
        ZooError: The labels are of fewer than two classes.
    """
    check_name_is_free(store, aim.name)
    if aim.labels and (taken := f"{stem_of(aim.name)}-UTT") in store.features:  # where the rows are probed
        raise NameTaken(f"there is a space {taken!r} already", "choose another --as, or leave --labels out")
    for layer in filter(None, (aim.labels, aim.judge)):
        _ = store.labels[layer]
    if aim.labels and len(set(human_labels(store, aim.labels, "train").values())) < 2:
        raise ZooError(
            f"human labels of {aim.labels!r} in `train` are of fewer than two classes, nothing to probe",
            "choose another --labels, or leave it out",
        )


def classes_of(store: "Store", layer: str, keys: Sequence[str]) -> list[str | None] | None:
    """Return the class people gave each clip, None where nobody did; None for all without a layer."""
    if not layer:
        return None
    known = human_labels(store, layer)
    classes = [known.get(key) for key in keys]
    if not any(classes):
        raise ZooError(f"no held-out clip has a human label in {layer!r}", "choose another --judge")
    return classes


def views_of(store: "Store", pairs: Pairs, visual: View, acoustic: View) -> Views:
    """Return both views of the clips of `pairs`, numbered train, valid, held."""
    train, valid = len(pairs.train), len(pairs.valid)
    content = numbered([store.clips[key].content_hash for key in (*pairs.train, *pairs.valid)])
    numbers = torch.arange(train + valid)
    return Views(visual, acoustic, numbers[:train], numbers[train:], content)


def facts_of(pairs: Pairs) -> dict[str, Any]:
    """Return what metrics say of the clips."""
    clips = {"train": len(pairs.train), "valid": len(pairs.valid), "held_out": len(pairs.held)}
    return {"clips": clips, "held_out": pairs.held_out, "grouped_by": pairs.grouped_by}


def score(found: Sequence[Found], classes: Sequence[str | None] | None) -> dict[str, Any]:
    """Return what metrics say of retrieval: `retrieval`, `gain` of the first way above each other, `chance`.

    Args:
        found: Ways on the same clips, the aligned one first.
        classes: Of the clips.
    """
    first, *others = found
    known = [c for c in classes or [] if c is not None]
    whole = {"oracle": oracle(known)} if classes and len(known) == len(classes) else {}
    return {
        "retrieval": {way.name: to_json(way.rates()) for way in found},
        "gain": {way.name: to_json(first.above(way)) for way in others},
        "chance": chance(len(first.ahead), classes),
        **whole,
    }


def record(
    store: "Store",
    aim: Aim,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    notices: Sequence[str],
) -> Alignment:
    """Put an alignment on record among the runs."""
    best = metrics["retrieval"][ALIGNED][f"R@{AT[-1]}"][0]
    notices = [*few(metrics["clips"]["held_out"]), *notices]
    layers = tuple(f"labels/{layer}" for layer in dict.fromkeys((aim.labels, aim.judge)) if layer)
    bundle = store.runs.add_numbered(
        ALIGNMENT,
        {"metrics.json": dump(metrics), "history.json": dump(list(history))},
        parents=(f"adapters/{aim.name}", *layers),
        attrs={"type": ALIGNMENT, "adapter": aim.name, f"r_at_{AT[-1]}": best},
        command=aim.command,
        message=f"alignment of {metrics['visual']} to {metrics['acoustic']}: R@{AT[-1]} {best:.4f}",
    )
    return Alignment(adapter=aim.name, record=bundle.name, metrics=metrics, notices=tuple(notices))


def through(
    name: str, fitted: FittedHead, views: Views, pairs: Pairs, classes: Sequence[str | None] | None
) -> Found:
    """Return what held-out clips find through a head."""
    held = numbers_of_held(pairs)
    given = apply(fitted.head, views.visual, held).numpy()
    return retrieve(name, given, views.acoustic.take(held).numpy(), classes)


def without(views: Views, pairs: Pairs, classes: Sequence[str | None] | None, seed: int) -> list[Found]:
    """Return what held-out clips find without alignment."""

    def both(index: Tensor) -> tuple[Any, Any]:
        return views.visual.take(index).numpy(), views.acoustic.take(index).numpy()

    return list(baselines(both(views.train[:FIT_ON]), both(numbers_of_held(pairs)), classes, seed=seed))


def numbers_of_held(pairs: Pairs) -> Tensor:
    """Return the numbers of the held-out clips, behind those that train and validate."""
    return torch.arange(len(pairs.held)) + len(pairs.train) + len(pairs.valid)


def late(best: int, epochs: int) -> list[str]:
    """Say what the best epoch means, where it means something."""
    if best == 0:
        return ["no epoch was better than the first weights: nothing was learned"]
    if best == epochs:
        return ["the last epoch was the best: more epochs may align better"]
    return []


def probed(store: "Store", aim: Aim, before: str, after: str) -> dict[str, Any]:
    """Probe two spaces on the labelled train clips that both have, and return what metrics say of it."""
    spaces = [store.features[name] for name in (before, after)]
    keys = [key for key in human_labels(store, aim.labels, "train") if all(key in s for s in spaces)]
    scores = [probe(store, name, aim.labels, keys=keys, device=aim.device) for name in (before, after)]
    lines = [line.to_json() for line in compare(*scores)]
    return {"labels": aim.labels, "spaces": [before, after], "lines": lines}
