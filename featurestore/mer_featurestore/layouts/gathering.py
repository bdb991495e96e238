"""What the readers of corpus folders share: clips with the places they were found at, complaints, media."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mer_featurestore.catalogue import AUDIO_SUFFIXES, VIDEO_SUFFIXES, Catalogue
from mer_featurestore.content import hash_clips
from mer_featurestore.csvfile import Row, Table, read_table
from mer_featurestore.errors import BadInput, BadName, suggest
from mer_featurestore.names import check_key
from mer_featurestore.records import Clip, Progress
from mer_featurestore.wording import plural

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is said: a file, a line of it (1-based), and its column if it has any."""

    file: Path
    line: int
    column: str = ""

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" + (f", column {self.column}" if self.column else "")


class Gathering:
    """Collects the clips of a folder, in order.

    Args:
        folder: The corpus.
        corpus: What its clips call it.
        columns: Field -> column, where the user says so.
    """

    def __init__(self, folder: Path, corpus: str, columns: Mapping[str, str]) -> None:
        self.folder, self.corpus = folder.absolute(), corpus
        self.columns = dict(columns)
        self.clips: dict[str, Clip] = {}
        self.labels: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        self.notices: list[str] = []

    def add(self, clip: Clip, place: Place | None = None, label: str = "") -> None:
        """Take a clip; BadInput for a key that is there already or cannot be one."""
        try:
            check_key(clip.key)
        except BadName as error:
            raise BadInput(f"{place or self.folder}: {error.message}", error.remedy) from None
        if clip.key in self.clips:
            there = self.places.get(clip.key, self.folder)
            raise BadInput(f"{place}: clip {clip.key!r} is already at {there}", "remove one of the two rows")
        self.clips[clip.key] = replace(clip, corpus=self.corpus)
        if place is not None:
            self.places[clip.key] = place
        if label:
            self.labels[clip.key] = label

    def column(self, table: Table, name: str, *known: str) -> str:
        """Return the table's column of a field, the user's choice first; BadInput when it has none."""
        column = self.optional(table, name, *known)
        if column is None:
            asked = self.columns.get(name)
            has = ", ".join(table.columns)
            raise BadInput(
                f"{table.path} has no column {asked or known[0]!r} (it has: {has})",
                suggest(asked, table.columns) if asked else f"say which it is: --column {name}=NAME",
            )
        return column

    def optional(self, table: Table, name: str, *known: str) -> str | None:
        """Return the table's column of a field, the user's choice first; None when it has none."""
        return table.find(self.columns[name]) if name in self.columns else table.find(*known)

    def note(self, text: str) -> None:
        """Remember something a person should know."""
        self.notices.append(text)

    def catalogue(
        self, *, allow_missing: bool, hash_media: bool, progress: Progress | None = None
    ) -> Catalogue:
        """Check the media and return everything as a catalogue.

        Raises:
            BadInput: No clips at all, or media that are not there (unless `allow_missing`).
        """
        if not self.clips:
            raise BadInput(f"{self.folder} holds no clips", "check that it is the corpus's own folder")
        self._check_media(allow_missing)
        clips = list(self.clips.values())
        if hash_media:
            clips = hash_clips(clips, progress=progress)
        labelled = {key: self.places[key] for key in self.labels}
        source = next((place.file for place in labelled.values()), self.folder)
        return Catalogue(
            source,
            tuple(clips),
            self.labels,
            {key: place.line for key, place in self.places.items()},
            next((place.column for place in labelled.values()), ""),
            files={key: place.file for key, place in labelled.items()},
            notices=tuple(self.notices),
        )

    def _check_media(self, allow_missing: bool) -> None:
        paths = ((key, path) for key, clip in self.clips.items() for path in {clip.audio, clip.video} if path)
        missing = [(key, path) for key, path in paths if not Path(path).is_file()]
        if missing and allow_missing:
            keys = list(dict.fromkeys(key for key, _ in missing))
            self.note(f"{plural(len(keys), 'clip')} whose media are not there: {some(keys)}")
        elif missing:
            key, path = missing[0]
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            place = self.places.get(key)
            raise BadInput(
                f"{replace(place, column='') if place else self.folder}: no such file: {path}{more}",
                "put the media there, or take the clips without them: --allow-missing",
            )


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files (posix names below the folder) that is there."""
    return next((path for name in names if (path := folder / name).is_file()), None)


def first_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these folders that is there."""
    return next((path for name in names if (path := folder / name).is_dir()), None)


def media_in(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Return name without suffix -> file, of a folder's files with one of these suffixes; dot files aside.

    Raises:
        BadInput: Two files differ in their suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue  # what macOS leaves beside a file begins with a dot
        if path.stem in found:
            raise BadInput(f"{found[path.stem]} and {path} are one clip by name", "remove one of them")
        found[path.stem] = path
    return found


def rows_of(table: Table, column: str) -> Iterable[tuple[Row, str, Place]]:
    """Yield row, stripped cell of a column, and its place; BadInput for an empty cell."""
    for row in table.rows:
        cell = row.cells[column].strip()
        if not cell:
            raise BadInput(f"{table.where(row, column)}: empty name", "give every row the name of its clip")
        yield row, cell, Place(table.path, row.line, column)


def stem(name: str) -> str:
    """Return a clip's name without the suffix of a media file, if it has one."""
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in AUDIO_SUFFIXES | VIDEO_SUFFIXES else name


def table_of(path: Path) -> Table:
    """Read a CSV file, in Windows' western encoding where it is not UTF-8."""
    return read_table(path, fallback="cp1252")


def cell(row: Row, column: str | None) -> str:
    """Return a stripped cell; empty where there is no such column."""
    return row.cells[column].strip() if column else ""


def some(items: Sequence[str]) -> str:
    """Return a few of many names for a message."""
    return ", ".join(items[:SHOWN]) + (" …" if len(items) > SHOWN else "")


def counted(labels: Iterable[str]) -> str:
    """Return `name count` pairs, most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in Counter(labels).most_common())
