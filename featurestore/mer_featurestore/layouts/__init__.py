"""Corpora in the folders they are published in, read into the same clips and labels a CSV gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mer_featurestore.catalogue import Catalogue
from mer_featurestore.errors import BadInput, UnknownName, suggest
from mer_featurestore.layouts import iemocap, meld, mer2024, mosei
from mer_featurestore.layouts.gathering import Gathering, counted
from mer_featurestore.records import Progress
from mer_featurestore.wording import plural

__all__ = ["FIELDS", "LAYOUTS", "Layout", "read_layout"]

FIELDS = ("key", "label", "text", "speaker", "group", "split")
"""What `columns` can name; a layout uses those its files have."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A way a corpus lies in a folder.

    Attributes:
        name: What `--layout` calls it.
        read: Adds the folder's clips to a gathering.
        classes: Its classes in their order.
        about: One line for people.
    """

    name: str
    read: Callable[[Path, Gathering], None]
    classes: tuple[str, ...]
    about: str


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("mer2024", mer2024.read, mer2024.CLASSES, "MER2024 and MER2023, as released or by MERTools"),
        Layout("meld", meld.read, meld.CLASSES, "MELD.Raw"),
        Layout("mosei", mosei.read, mosei.CLASSES, "CMU-MOSEI, CMU-MOSI, CH-SIMS as MMSA distributes them"),
        Layout("iemocap", iemocap.read, iemocap.CLASSES, "IEMOCAP_full_release"),
    )
}


def read_layout(
    name: str,
    folder: Path,
    *,
    corpus: str = "",
    columns: Mapping[str, str] | None = None,
    merge: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    allow_missing: bool = False,
    hash_media: bool = True,
    progress: Progress | None = None,
) -> Catalogue:
    """Read a corpus folder.

    Args:
        name: A name in `LAYOUTS`.
        folder: The corpus.
        corpus: What its clips call it; empty for the layout's name.
        columns: Field -> column, where the usual one is not wanted, e.g. `{"text": "english"}`.
        merge: Class -> class it counts as, e.g. `{"exc": "hap"}`.
        classes: The classes in their order, after merging; clips of the layout's other classes lose their
            label, and their split becomes `unlabeled` where it was `train`. None for all the layout has.
        allow_missing: Take clips whose media files are not there.
        hash_media: Read all media for content hashes.
        progress: Called with (files hashed, files in all).

    Returns:
        Clips and labels; `classes` is set, and `notices` says what was found and what was not.

    Raises:
        UnknownName: No such layout, or a class to merge that it does not have.
        BadInput: Anything wrong with the folder or a file in it, naming file and line.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise UnknownName("layout", name, LAYOUTS)
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", "name the corpus's folder")
    for field in columns or {}:
        if field not in FIELDS:
            raise BadInput(f"--column {field}=…: no field named {field!r}", suggest(field, FIELDS))
    gather = Gathering(folder, corpus or name, columns or {})
    layout.read(folder, gather)
    order = _relabel(gather, layout, merge or {}, classes)
    read = gather.catalogue(allow_missing=allow_missing, hash_media=hash_media, progress=progress)
    return replace(read, classes=order)


def _relabel(
    gather: Gathering, layout: Layout, merge: Mapping[str, str], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Spell labels as the layout does, merge them, and leave out unwanted ones; return the classes."""
    for source in merge:
        if source not in layout.classes:
            raise UnknownName(f"class of layout {layout.name}", source, layout.classes)
    spelled = {known.casefold(): known for known in (*layout.classes, *(classes or ()))}
    merged = tuple(dict.fromkeys(merge.get(known, known) for known in layout.classes))
    order = tuple(classes) if classes is not None else merged
    unwanted: list[str] = []
    for key, label in list(gather.labels.items()):
        known = spelled.get(label.casefold(), label)
        known = merge.get(known, known)
        gather.labels[key] = known
        if known in merged and known not in order:
            unwanted.append(known)
            del gather.labels[key]
            clip = gather.clips[key]
            gather.clips[key] = replace(clip, split="unlabeled" if clip.split == "train" else clip.split)
    if unwanted:
        gather.note(
            f"{plural(len(unwanted), 'label')} left out, of classes not asked for: {counted(unwanted)}"
        )
    return order
