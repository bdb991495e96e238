"""Reads CSV files people make by hand: every complaint names the file, the line and the column."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mer_featurestore.errors import BadInput, suggest

_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'"}
_LIMIT = 1 << 24  # characters in one cell; the csv module's own limit of 131,072 is below long transcripts
_SPREADSHEET = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods are zips, .xls is an OLE file


@dataclass(frozen=True, slots=True)
class Row:
    """One record: `line` is where it begins (1-based), `cells` its values by column name."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A CSV file as read: the header's names as written, and its rows."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def where(self, row: Row, column: str = "") -> str:
        """Return `FILE, line N, column C`, the beginning of every complaint about a row."""
        return f"{self.path}, line {row.line}" + (f", column {column}" if column else "")

    def find(self, *names: str) -> str | None:
        """Return the header's name of the first of these columns it has, letter case ignored."""
        folded = {column.casefold(): column for column in self.columns}
        for name in names:
            if name in self.columns:
                return name
            if name.casefold() in folded:
                return folded[name.casefold()]
        return None


def read_table(path: Path, *, delimiter: str = ",", fallback: str = "") -> Table:
    """Read a CSV file with a header.

    UTF-8 with or without a byte order mark, any line ends, quoted line breaks; blank lines are skipped.

    Args:
        path: The file.
        delimiter: One character.
        fallback: The encoding of files that are not UTF-8; empty refuses them.

    Raises:
        BadInput: The file is missing, not UTF-8, seems to use another delimiter, has a bad header, or a row
            with another number of cells than the header.
    """
    text = _decode(path, fallback)
    records = _records(path, text, delimiter)
    header_line, header = next(records, (1, []))
    columns = _header(path, header_line, header, delimiter)
    rows = tuple(_row(path, line, columns, cells) for line, cells in records)
    return Table(path, columns, rows)


def map_columns(
    table: Table, fields: Mapping[str, Sequence[str]], given: Mapping[str, str]
) -> dict[str, str]:
    """Say which column of the table each field is read from.

    Args:
        table: The table.
        fields: Every field and the column names it goes by, best first.
        given: The user's own choice, field -> column.

    Returns:
        Field -> column as written in the header, for the fields the table has.

    Raises:
        BadInput: A field nobody knows, a column the table does not have, or two columns for one field.
    """
    for field, column in given.items():
        if field not in fields:
            raise BadInput(f"--column {field}={column}: no field named {field!r}", suggest(field, fields))
        if table.find(column) is None:
            raise BadInput(f"{table.path} has no column {column!r}", suggest(column, table.columns))
    mapped: dict[str, str] = {}
    for field, names in fields.items():
        if field in given:
            mapped[field] = table.find(given[field]) or given[field]
            continue
        found = [c for c in dict.fromkeys(table.find(name) for name in names) if c is not None]
        if len(found) > 1:
            raise BadInput(
                f"{table.path}: columns {' and '.join(map(repr, found))} are both read as {field}",
                f"choose one with --column {field}={found[0]}",
            )
        if found:
            mapped[field] = found[0]
    return mapped


def _decode(path: Path, fallback: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}", "check the path") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder", "name the CSV file in it") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(f"{path} is UTF-16", f"convert it: iconv -f utf-16 -t utf-8 {path.name} > utf8.csv")
    if raw.startswith(_SPREADSHEET):
        raise BadInput(
            f"{path} is a spreadsheet or an archive, not a CSV file",
            "save it as CSV (UTF-8) and name that file",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback:
            return raw.decode(fallback, "replace")
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x})",
            f"convert it, e.g. from Latin-1: iconv -f latin1 -t utf-8 {path.name} > utf8.csv",
        ) from None


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line it begins on, cells) of every record that is not blank."""
    previous = csv.field_size_limit(_LIMIT)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        start = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                _malformed(path, start, error)
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    finally:
        csv.field_size_limit(previous)


def _malformed(path: Path, line: int, error: csv.Error) -> NoReturn:
    remedy = (
        "close the quotation mark that opens there" if "end of data" in str(error) else "check the quotes"
    )
    raise BadInput(f"{path}, line {line}: malformed CSV ({error})", remedy) from None


def _header(path: Path, line: int, cells: list[str], delimiter: str) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    if not columns:
        raise BadInput(f"{path} is empty", "its first line must name the columns")
    if len(columns) == 1:
        for other, typed in _DELIMITERS.items():
            if other != delimiter and other in columns[0]:
                raise BadInput(
                    f"{path}, line {line}: one column only, cells seem to be separated by {other!r}",
                    f"pass --delimiter {typed}",
                )
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise BadInput(f"{path}, line {line}: two columns are named {column!r}", "rename or remove one")
        if column:
            seen.add(column)
    return columns


def _row(path: Path, line: int, columns: tuple[str, ...], cells: list[str]) -> Row:
    if len(cells) > len(columns) and not any(cell.strip() for cell in cells[len(columns) :]):
        cells = cells[: len(columns)]  # spreadsheets leave empty cells behind the last column
    if len(cells) != len(columns):
        remedy = (
            "put quotes around cells that contain the delimiter"
            if len(cells) > len(columns)
            else "fill the missing cells, or leave them empty between delimiters"
        )
        raise BadInput(f"{path}, line {line}: {len(cells)} cells, the header has {len(columns)}", remedy)
    return Row(line, {column: cell for column, cell in zip(columns, cells, strict=True) if column})
