"""Brings a catalogue and its labels into a store: one commit for both, or nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mer_featurestore.catalogue import Catalogue
from mer_featurestore.clips import AddReport, ClipPlan
from mer_featurestore.commits import Change, Entry
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.label_layer import LabelLayer, check_classes, class_remedy
from mer_featurestore.label_sheets import Sheet, imported_from
from mer_featurestore.snapshot import Snapshot

if TYPE_CHECKING:
    from mer_featurestore.store import Store


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did, or with `dry_run` would do.

    Attributes:
        clips: Clips added, unchanged and updated.
        layer: The label layer; None when there are no labels to store.
        layer_added: False when the layer was there already with the same labels.
        commit: Number of the commit the store is at afterwards.
    """

    clips: AddReport
    layer: LabelLayer | None
    layer_added: bool
    commit: int


def ingest(
    store: "Store",
    catalogue: Catalogue,
    *,
    labels_as: str | None = "gold",
    classes: Sequence[str] | None = None,
    label_splits: Collection[str] = (),
    update: bool = False,
    dry_run: bool = False,
    command: str = "",
    message: str = "",
) -> IngestReport:
    """Add a catalogue's clips, and its labels as a layer, in one commit.

    Doing it again with the same catalogue changes nothing and makes no commit.

    Args:
        store: Where to.
        catalogue: As `read_catalogue` gives it.
        labels_as: Name of the layer; None leaves the labels out.
        classes: Class names in their order; None for the catalogue's own, or those that occur, sorted.
        label_splits: Take the labels of these splits only; empty for all.
        update: Take rows that differ from those already there.
        dry_run: Check everything and write nothing.
        command: For the log.
        message: For the log.

    Raises:
        BadInput: A clip row that differs from the one already there, or a label outside the classes, with
            file and line.
        NameTaken: There is another layer of that name.
    """
    layer = _layer(catalogue, labels_as, classes, label_splits)
    clips, layers = store.clips, store.labels
    plan, add_layer = ClipPlan((), AddReport()), False

    def look(now: Snapshot) -> None:
        nonlocal plan, add_layer
        plan = clips.plan(now, catalogue.clips, update=update)
        add_layer = layer is not None and not layers.holds(now, layer)
        if layer is not None and add_layer:
            layers.check(now, layer)

    look(store.snapshot)
    if dry_run:
        return IngestReport(plan.report, layer, add_layer, store.commit)
    with Draft(store) as draft:
        entries: list[Entry] = []

        def build(now: Snapshot) -> Change:
            nonlocal entries
            look(now)
            made = [clips.entry(draft, plan), layers.entry(draft, layer) if layer and add_layer else None]
            entries = [entry for entry in made if entry is not None]
            return Change(add=entries)

        store.write(build, command=command, message=message)
        draft.keep(*entries)
    return IngestReport(plan.report, layer, add_layer, store.commit)


def labels_for_clips(
    store: "Store", sheet: Sheet, *, splits: Collection[str] = (), ignore_unknown: bool = False
) -> LabelLayer:
    """Return the part of a label table that belongs to clips of the store, and to these splits.

    Args:
        store: Whose catalogue decides.
        sheet: As `read_labels` gives it.
        splits: Of these splits only; empty for all.
        ignore_unknown: Leave out rows whose clip is not in the catalogue instead of complaining.

    Raises:
        UnknownName: No clip of the catalogue has such a split.
        BadInput: A row's clip is not in the catalogue, or nothing is left.
    """
    clips = store.clips
    known = {clip.key for clip in clips.select(split=splits or None)}
    unknown = [key for key in sheet.layer.keys if key not in clips]
    if unknown and not ignore_unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise BadInput(
            f"{sheet.where(unknown[0])}: clip {unknown[0]!r} is not in the catalogue{more}",
            "ingest the clips first, or leave such rows out with --ignore-unknown",
        )
    keys = [key for key in sheet.layer.keys if key in known]
    if not keys:
        where = f"of split {' or '.join(sorted(splits))}" if splits else "of the catalogue"
        remedy = (
            "choose another --split" if splits else "its keys must be those that `mer-fs clips --list` shows"
        )
        raise BadInput(f"{sheet.source} has no label for a clip {where}", remedy)
    return sheet.layer.take(keys)


def _layer(
    catalogue: Catalogue, name: str | None, classes: Sequence[str] | None, splits: Collection[str]
) -> LabelLayer | None:
    if name is None or not catalogue.labels:
        return None
    order = tuple(classes if classes is not None else catalogue.classes)
    order = order or tuple(sorted(set(catalogue.labels.values())))
    check_classes(order)
    for key, label in catalogue.labels.items():
        if label not in order:
            raise BadInput(
                f"{catalogue.where(key)}: label {label!r} is not one of the classes",
                class_remedy(label, order),
            )
    labels = _of_splits(catalogue, splits)
    return LabelLayer.human(name, order, labels, attrs=imported_from(*catalogue.label_files))


def _of_splits(catalogue: Catalogue, splits: Iterable[str]) -> Mapping[str, str]:
    wanted = set(splits)
    if not wanted:
        return catalogue.labels
    split_of = {clip.key: clip.split for clip in catalogue.clips}
    labelled = {split_of[key] for key in catalogue.labels}
    for split in sorted(wanted - labelled):
        raise UnknownName("split with labels", split, labelled)
    return {key: label for key, label in catalogue.labels.items() if split_of[key] in wanted}
