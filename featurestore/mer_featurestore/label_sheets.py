"""Label layers as tables people share: CSV in and out, Parquet in."""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.content import file_hash
from mer_featurestore.csvfile import Row, Table, map_columns, read_table
from mer_featurestore.errors import BadInput, BadName
from mer_featurestore.label_layer import (
    HUMAN,
    NO_CLASS,
    PSEUDO,
    SOURCES,
    LabelLayer,
    check_classes,
    class_remedy,
)
from mer_featurestore.names import check_key
from mer_featurestore.resolve import Resolved

FIELDS: dict[str, tuple[str, ...]] = {
    "key": ("key",),
    "label": ("label", "emotion"),
    "confidence": ("confidence",),
    "source": ("source",),
    "kept": ("kept",),
    "reason": ("reason",),
}
"""Every field of a label table and the columns it is read from, besides `p_<class>` and `vote_<member>`."""

_SHOWN = 3  # files of a layer that are named
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Sheet:
    """A label table as read: the layer it makes, and where each clip was found."""

    layer: LabelLayer
    source: Path
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """Return `FILE, line N` of a clip (the file alone where it has no lines)."""
        return f"{self.source}, line {self.lines[key]}" if key in self.lines else str(self.source)


def read_labels(
    path: Path,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str = ",",
) -> Sheet:
    """Read a label table: a class per clip, or probabilities per class, or both.

    Columns: `key`; `label` (or `emotion`); or `p_<class>` for soft labels, of which the largest gives the
    label where there is no label column; optionally `confidence`, `source` (human, pseudo), `kept`, `reason`
    and `vote_<member>`. Rows without a label are skipped unless a `kept` column says why they are there.

    Args:
        path: CSV (UTF-8, with a header), Parquet by the suffix `.parquet`, or the label file of MERTools by
            the suffix `.npz` (dicts of pickled objects, read without executing them).
        name: Of the layer.
        classes: Class names in their order; None for the order of the `p_` columns, else the names sorted.
        columns: Field -> column, for headers that go by other names.
        delimiter: What separates cells of a CSV.

    Raises:
        BadInput: Anything wrong with the file or in it, naming file, line and column.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return _mertools(path, name, classes)
    table = _parquet(path) if path.suffix.lower() == ".parquet" else read_table(path, delimiter=delimiter)
    mapped = map_columns(table, FIELDS, columns or {})
    return _SheetReader(table, mapped, classes).sheet(name)


def write_labels(layer: LabelLayer, path: Path) -> None:
    """Write a layer as CSV that `read_labels` reads back exactly (but for its parents and attributes)."""
    header = ["key", "label", "confidence", "source", "kept", "reason"]
    header += [f"p_{c}" for c in layer.classes] + [f"vote_{m}" for m in layer.members]

    def named(code: int) -> str:
        return layer.classes[code] if code != NO_CLASS else ""

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for i, key in enumerate(layer.keys):
            facts = [str(layer.confidence[i]), SOURCES[layer.source[i]], int(layer.kept[i]), layer.reason[i]]
            probs = [str(p) for p in layer.probs[i]]  # the shortest digits that give the same float32 back
            writer.writerow([key, named(layer.label[i]), *facts, *probs, *map(named, layer.votes[i])])


def write_resolved(labels: Resolved, path: Path) -> None:
    """Write what a layer says together with what it stands on: one certain label per clip, as CSV."""
    header = ["key", "label", "confidence", "source", "layer", *(f"p_{c}" for c in labels.classes)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for i, key in enumerate(labels.keys):
            facts = [labels[key], str(labels.confidence[i]), SOURCES[labels.source[i]], labels.layer_of[i]]
            writer.writerow([key, *facts, *(str(p) for p in labels.probs[i])])


def imported_from(*paths: Path) -> dict[str, str]:
    """Return the attributes of a layer that came from files: their names and one SHA-256."""
    if len(paths) == 1:
        return {"imported_from": paths[0].name, "sha256": file_hash(paths[0])}
    names = [path.name for path in paths]
    shown = ", ".join(names) if len(names) <= _SHOWN else f"{len(names)} files like {names[0]}"
    together = hashlib.sha256("".join(map(file_hash, paths)).encode())
    return {"imported_from": shown, "sha256": together.hexdigest()}


class _SheetReader:
    def __init__(self, table: Table, mapped: Mapping[str, str], classes: Sequence[str] | None) -> None:
        self.table, self.mapped = table, mapped
        self.soft = [c for c in table.columns if c.startswith("p_")]
        self.votes = [c for c in table.columns if c.startswith("vote_")]
        self._require()
        self.classes = self._class_list(classes)
        self.index = {c: i for i, c in enumerate(self.classes)}

    def sheet(self, name: str) -> Sheet:
        rows = [row for row in self.table.rows if self._says_something(row)]
        if not rows:
            raise BadInput(f"{self.table.path} has no labelled row", "fill the label column")
        lines = self._lines(rows)
        probs, label = self._probs_and_labels(rows)
        votes = [[self._class(row, column) for column in self.votes] for row in rows]
        layer = LabelLayer(
            name=name,
            classes=self.classes,
            keys=tuple(lines),
            label=label,
            probs=probs,
            confidence=self._confidence(rows, probs),
            source=np.array([self._source(row) for row in rows], np.uint8),
            votes=np.array(votes, np.int16).reshape(len(rows), len(self.votes)),
            members=tuple(column.removeprefix("vote_") for column in self.votes),
            reason=tuple(self._cell(row, "reason") for row in rows),
            kept=np.array([self._kept(row) for row in rows], np.bool_),
            attrs=imported_from(self.table.path),
        )
        return Sheet(layer, self.table.path, lines)

    def _require(self) -> None:
        has = ", ".join(self.table.columns)
        if "key" not in self.mapped:
            raise BadInput(
                f"{self.table.path} has no column key (it has: {has})", "say which it is: --column key=NAME"
            )
        if "label" not in self.mapped and not self.soft:
            raise BadInput(
                f"{self.table.path} has no column label or emotion and no p_<class> columns (it has: {has})",
                "say which it is: --column label=NAME",
            )

    def _class_list(self, given: Sequence[str] | None) -> tuple[str, ...]:
        soft = tuple(column.removeprefix("p_") for column in self.soft)
        if given is not None:
            check_classes(given)
            if soft and set(soft) - set(given):
                foreign = min(set(soft) - set(given))
                raise BadInput(
                    f"{self.table.path}, column p_{foreign}: not one of the classes",
                    class_remedy(foreign, given),
                )
            return tuple(given)
        if soft:
            check_classes(soft)
            return soft
        labels = {self._cell(row, "label") for row in self.table.rows} - {""}
        if not labels:
            raise BadInput(f"{self.table.path} has no labelled row", "fill the label column")
        check_classes(sorted(labels))
        return tuple(sorted(labels))

    def _cell(self, row: Row, field: str) -> str:
        return row.cells[self.mapped[field]].strip() if field in self.mapped else ""

    def _at(self, row: Row, field: str) -> str:
        return self.table.where(row, self.mapped.get(field, field))

    def _says_something(self, row: Row) -> bool:
        return bool(
            self._cell(row, "label")
            or self._cell(row, "kept")
            or any(row.cells[c].strip() for c in self.soft)
        )

    def _lines(self, rows: Sequence[Row]) -> dict[str, int]:
        lines: dict[str, int] = {}
        for row in rows:
            key = self._cell(row, "key")
            try:
                check_key(key)
            except BadName as error:
                raise BadInput(f"{self._at(row, 'key')}: {error.message}", error.remedy) from None
            if key in lines:
                raise BadInput(
                    f"{self._at(row, 'key')}: key {key!r} is already on line {lines[key]}", "remove one row"
                )
            lines[key] = row.line
        return lines

    def _probs_and_labels(self, rows: Sequence[Row]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        probs = np.zeros((len(rows), len(self.classes)), np.float32)
        label = np.full(len(rows), NO_CLASS, np.int16)
        columns = [self.index[column.removeprefix("p_")] for column in self.soft]
        for i, row in enumerate(rows):
            if "label" in self.mapped:
                label[i] = self._class(row, self.mapped["label"])
            if any(row.cells[column].strip() for column in self.soft):
                probs[i, columns] = self._soft(row)
                if "label" not in self.mapped:
                    label[i] = int(probs[i].argmax())
            elif label[i] != NO_CLASS:
                probs[i, label[i]] = 1
        return probs, label

    def _soft(self, row: Row) -> list[float]:
        values = [self._fraction(row, column) for column in self.soft]
        if abs(sum(values) - 1) > 0.01 and any(values):
            raise BadInput(
                f"{self.table.where(row)}: the p_ columns sum to {sum(values):.3f}", "normalise them to 1"
            )
        return values

    def _class(self, row: Row, column: str) -> int:
        cell = row.cells[column].strip()
        if not cell:
            return NO_CLASS
        if cell not in self.index:
            raise BadInput(
                f"{self.table.where(row, column)}: label {cell!r} is not one of the classes",
                class_remedy(cell, self.classes),
            )
        return self.index[cell]

    def _fraction(self, row: Row, column: str) -> float:
        cell = row.cells[column].strip()
        try:
            value = float(cell) if cell else 0.0
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise BadInput(
                f"{self.table.where(row, column)}: {cell!r} is not between 0 and 1", "correct the cell"
            )
        return value

    def _confidence(self, rows: Sequence[Row], probs: NDArray[np.float32]) -> NDArray[np.float32]:
        if "confidence" not in self.mapped:
            return np.asarray(probs.max(axis=1))
        return np.array([self._fraction(row, self.mapped["confidence"]) for row in rows], np.float32)

    def _source(self, row: Row) -> int:
        return int(self._choice(row, "source", {"": HUMAN, "human": HUMAN, "pseudo": PSEUDO}.get))

    def _kept(self, row: Row) -> bool:
        empty = bool(self._cell(row, "label")) or "label" not in self.mapped
        return bool(self._choice(row, "kept", {**_TRUTH, "": empty}.get))

    def _choice(self, row: Row, field: str, read: Callable[[str], Any]) -> Any:
        cell = self._cell(row, field)
        value = read(cell.lower())
        if value is None:
            words = "human or pseudo" if field == "source" else "1 or 0"
            raise BadInput(f"{self._at(row, field)}: {cell!r} is not understood", f"write {words}")
        return value


def _mertools(path: Path, name: str, classes: Sequence[str] | None) -> Sheet:
    from mer_featurestore.interchange.mertools import read_label_npz

    labels: dict[str, str] = {}
    for split, found in read_label_npz(path, classes=classes).items():
        twice = sorted(labels.keys() & found.keys())
        if twice:
            raise BadInput(f"{path}, {split}: clip {twice[0]!r} is in another corpus as well", "remove one")
        labels |= found
    return Sheet(LabelLayer.human(name, classes, labels, attrs=imported_from(path)), path, {})


def _parquet(path: Path) -> Table:
    """Read a flat Parquet file as a table of text, rows numbered from 1."""
    from mer_featurestore.interchange.parquet import read_columns

    columns = read_columns(path)
    names = tuple(columns)
    cells = zip(*columns.values(), strict=True)
    rows = (
        Row(line, dict(zip(names, ("" if c is None else str(c) for c in record), strict=True)))
        for line, record in enumerate(cells, start=1)
    )
    return Table(path, names, tuple(rows))
