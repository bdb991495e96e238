"""The CSV that a challenge wants: one class for every clip of a split, joined by key."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.csvfile import read_table
from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.label_layer import HUMAN
from mer_zoo.errors import ZooError
from mer_zoo.predict import predict
from mer_zoo.runs import Run, find_run

if TYPE_CHECKING:
    from mer_featurestore import Store

FORMATS: Mapping[str, tuple[str, str]] = {"mer2024": ("name", "emotion")}
"""Columns for the clip's key and its class, per challenge."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission that was written.

    Attributes:
        path: The file.
        run: Whose predictions; `labels/NAME` for a layer.
        split: Whose clips, or the list they are from.
        rows: Clips in the file: all of the split or list.
        counts: Clips per class.
        fallback: The class of clips that could not be predicted.
        fell_back: These clips.
    """

    path: Path
    run: str
    split: str
    rows: int
    counts: dict[str, int]
    fallback: str
    fell_back: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "path": str(self.path), "fell_back": list(self.fell_back)}


def submit(
    store: "Store",
    run: Run | str,
    path: Path | str,
    split: str = "test",
    *,
    rows: Path | None = None,
    form: str = "mer2024",
    columns: tuple[str, str] | None = None,
    fallback: str | None = None,
    device: str = "auto",
) -> Submission:
    """Write a class for every clip of a split, or of a challenge's list, in that order.

    Args:
        store: The store.
        run: A run, or its name; or the name of a label layer (`labels/NAME` where a run has the name too),
            whose own rows are written, kept or not: a vote of several runs by `pseudo_label`.
        path: CSV file, UTF-8; replaced when it is there.
        split: Whose clips.
        rows: A CSV with a column `name` or `key`: its clips, in its order, instead of the split's.
        form: A name in `FORMATS`.
        columns: Names of the two columns instead of the form's.
        fallback: Class of clips that nothing is known about; None takes the most frequent class of the
            human-labelled clips that stand behind the run or the layer.
        device: torch device, or `auto`.

    Raises:
        UnknownName: No such run, layer, split, clip, format, or class for `fallback`.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        BadInput: `rows` is not such a file, or names a clip twice.
        ZooError: None of the clips has features, or the columns have one name.
    """
    if form not in FORMATS:
        raise UnknownName("submission format", form, FORMATS)
    name, emotion = columns or FORMATS[form]
    if name == emotion:
        raise ZooError(f"both columns would be named {name!r}", "give two names: --columns name,emotion")
    keys = [clip.key for clip in store.clips.select(split=split)] if rows is None else _listed(store, rows)
    source = _by_layer(store, run) if isinstance(run, str) else None
    source = source or _by_run(store, find_run(store, run) if isinstance(run, str) else run, keys, device)
    fallback = source.fallback if fallback is None else fallback
    if fallback not in source.classes:
        raise UnknownName(f"class of {source.name}", fallback, source.classes)
    chosen = {key: source.said.get(key) or fallback for key in keys}
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((name, emotion))
        writer.writerows(chosen.items())
    counts = {label: list(chosen.values()).count(label) for label in source.classes}
    fell_back = tuple(key for key in keys if not source.said.get(key))
    where = split if rows is None else str(rows)
    return Submission(Path(path), source.name, where, len(chosen), counts, fallback, fell_back)


@dataclass(frozen=True, slots=True)
class _Source:
    """What is submitted: a class per clip, and one for clips nothing is known about."""

    name: str
    classes: tuple[str, ...]
    said: Mapping[str, str | None]
    fallback: str


def _by_run(store: "Store", run: Run, keys: Sequence[str], device: str) -> _Source:
    found = predict(store, run, keys=keys, device=device)
    said = dict(zip(found.keys, found.labels, strict=True))
    commonest = max(run.config.classes, key=lambda name: run.scores.per_class[name].support)
    return _Source(run.name, run.config.classes, said, commonest)


def _by_layer(store: "Store", name: str) -> _Source | None:
    """Return a label layer as what is submitted; None when the name is not, or not only, a layer's."""
    stem = name.removeprefix("labels/")
    if stem not in store.labels or (stem == name and name in store.runs):
        return None
    layer, resolved = store.labels[stem], store.labels.resolve(stem)
    human = Counter(c for c, s in zip(resolved.label, resolved.source, strict=True) if s == HUMAN)
    commonest = layer.classes[human.most_common(1)[0][0] if human else 0]
    return _Source(f"labels/{stem}", layer.classes, {key: layer[key] for key in layer.keys}, commonest)


def _listed(store: "Store", path: Path) -> list[str]:
    """Return the clips a CSV names, in its order."""
    table = read_table(path)
    column = table.find("name", "key")
    if column is None:
        raise BadInput(f"{path} has no column name or key", "its first line must name the columns")
    lines: dict[str, int] = {}
    for row in table.rows:
        key = row.cells[column].strip()
        if key in lines:
            raise BadInput(
                f"{table.where(row, column)}: {key!r} is already on line {lines[key]}", "remove one"
            )
        if key not in store.clips:
            raise UnknownName(f"clip ({table.where(row, column)})", key, store.clips)
        lines[key] = row.line
    return list(lines)
