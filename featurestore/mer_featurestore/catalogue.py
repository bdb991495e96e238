"""A clip catalogue as people write it, a CSV file, read into clips and labels."""

import math
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mer_featurestore.clips import AddReport, Clips
from mer_featurestore.content import hash_clips
from mer_featurestore.csvfile import Row, Table, map_columns, read_table
from mer_featurestore.errors import BadInput, BadName
from mer_featurestore.names import check_key
from mer_featurestore.records import Clip, Progress

__all__ = ["FIELDS", "AddReport", "Catalogue", "Clips", "read_catalogue"]

FIELDS: dict[str, tuple[str, ...]] = {
    "key": ("key",),
    "audio": ("audio", "audio_path"),
    "video": ("video", "video_path"),
    "path": ("path",),
    "text": ("text", "transcript"),
    "speaker": ("speaker",),
    "group": ("group", "dialogue"),
    "split": ("split",),
    "corpus": ("corpus",),
    "duration": ("duration",),
    "label": ("label", "emotion"),
}
"""Every field of a catalogue and the column names it is read from."""

AUDIO_SUFFIXES = frozenset(
    [".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".amr", ".au"]
)
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv"]
)
_CONTENT = ("audio", "video", "path", "text")


@dataclass(frozen=True)
class Catalogue:
    """What a CSV file says: clips, and labels where it has them.

    Attributes:
        source: The file.
        clips: In file order.
        labels: Key -> class, for the rows that have one.
        lines: Key -> line of the file, for complaints.
        label_column: The header's name of the label column; empty when there is none.
        unused: Columns that nothing was read from.
        files: Key -> file of its label, where that is not `source` (a corpus folder has several).
        classes: The corpus's classes in their order; empty when it does not say.
        notices: What a person should know: what was found and what was not.
    """

    source: Path
    clips: tuple[Clip, ...]
    labels: Mapping[str, str]
    lines: Mapping[str, int] = field(repr=False)
    label_column: str = ""
    unused: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)
    classes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The files the labels are from."""
        return tuple(sorted(set(self.files.values()))) or (self.source,)

    def __repr__(self) -> str:
        splits = ", ".join(f"{split} {n}" for split, n in Counter(clip.split for clip in self.clips).items())
        return (
            f"<Catalogue {self.source.name}: {len(self.clips)} clips ({splits}), {len(self.labels)} labels>"
        )

    def where(self, key: str) -> str:
        """Return `FILE, line N, column C` of a clip's label."""
        column = f", column {self.label_column}" if self.label_column else ""
        return f"{self.files.get(key, self.source)}, line {self.lines[key]}{column}"


def read_catalogue(
    csv: Path,
    *,
    columns: Mapping[str, str] | None = None,
    media_root: Path | None = None,
    corpus: str = "",
    allow_missing: bool = False,
    hash_media: bool = True,
    delimiter: str = ",",
    progress: Progress | None = None,
) -> Catalogue:
    """Read a clip catalogue.

    A `video` column without an `audio` column gives audio as well: the video's own stream. A `path` column
    gives audio, or video with audio, by its suffix. Without a split (no column, or an empty cell) a labelled
    clip is of split `train` and any other of `unlabeled`.

    Args:
        csv: UTF-8, with a header; columns as in `FIELDS`, others are ignored and listed in `unused`.
        columns: Field -> column, for headers that go by other names.
        media_root: What media paths are relative to; None for the CSV's folder. Paths are kept absolute.
        corpus: The corpus of rows that do not name theirs.
        allow_missing: Take clips whose media files are not there, instead of complaining.
        hash_media: Read all media for content hashes; without, clips have none and copies are not found.
        delimiter: What separates cells.
        progress: Called with (files hashed, files in all).

    Raises:
        BadInput: Anything wrong with the file or in it, naming file, line and column.
    """
    csv = Path(csv)
    table = read_table(csv, delimiter=delimiter)
    mapped = map_columns(table, FIELDS, columns or {})
    _require(table, mapped)
    root = Path(media_root) if media_root is not None else csv.parent
    reader = _RowReader(table, mapped, root.absolute(), corpus)
    clips, labels, lines = reader.read()
    if not allow_missing:
        _check_media(reader)
    if hash_media:
        clips = hash_clips(clips, progress=progress)
    used = set(mapped.values())
    unused = tuple(column for column in table.columns if column and column not in used)
    return Catalogue(csv, tuple(clips), labels, lines, mapped.get("label", ""), unused)


def _require(table: Table, mapped: Mapping[str, str]) -> None:
    has = ", ".join(table.columns)
    if "key" not in mapped:
        raise BadInput(
            f"{table.path} has no column key (it has: {has})", "say which it is: --column key=NAME"
        )
    if not any(name in mapped for name in _CONTENT):
        raise BadInput(
            f"{table.path} has none of the columns audio, video, path, text (it has: {has})",
            "say which holds the media or the words, e.g. --column video=NAME",
        )
    if "path" in mapped and ("audio" in mapped or "video" in mapped):
        raise BadInput(
            f"{table.path} has a column path beside audio or video",
            "remove one, or rename path to another name",
        )
    if not table.rows:
        raise BadInput(f"{table.path} has a header and no rows", "add one row per clip")


class _RowReader:
    """Turns rows into clips, remembering where every key and every media path was found."""

    def __init__(self, table: Table, mapped: Mapping[str, str], root: Path, corpus: str) -> None:
        self.table, self.mapped, self.root, self.corpus = table, mapped, root.as_posix(), corpus
        self.media: dict[str, tuple[Row, str]] = {}  # absolute path -> where it was first named

    def read(self) -> tuple[list[Clip], dict[str, str], dict[str, int]]:
        clips: list[Clip] = []
        labels: dict[str, str] = {}
        lines: dict[str, int] = {}
        for row in self.table.rows:
            clip, label = self._clip(row)
            if clip.key in lines:
                raise BadInput(
                    f"{self._at(row, 'key')}: key {clip.key!r} is already on line {lines[clip.key]}",
                    "keys must be unique; remove one row or rename it",
                )
            lines[clip.key] = row.line
            clips.append(clip)
            if label:
                labels[clip.key] = label
        return clips, labels, lines

    def _at(self, row: Row, name: str) -> str:
        return self.table.where(row, self.mapped.get(name, name))

    def _cell(self, row: Row, name: str) -> str:
        return row.cells[self.mapped[name]].strip() if name in self.mapped else ""

    def _clip(self, row: Row) -> tuple[Clip, str]:
        label = self._cell(row, "label")
        audio, video = self._paths(row)
        clip = Clip(
            key=self._key(row),
            corpus=self._cell(row, "corpus") or self.corpus,
            split=self._cell(row, "split") or ("train" if label else "unlabeled"),
            speaker=self._cell(row, "speaker"),
            group=self._cell(row, "group"),
            audio=audio,
            video=video,
            text=self._cell(row, "text") if "text" in self.mapped else None,
            duration=self._duration(row),
        )
        return clip, label

    def _key(self, row: Row) -> str:
        key = self._cell(row, "key")
        if not key:
            raise BadInput(f"{self._at(row, 'key')}: empty key", "give every row a key of its own")
        try:
            return check_key(key)
        except BadName as error:
            raise BadInput(f"{self._at(row, 'key')}: {error.message}", error.remedy) from None

    def _duration(self, row: Row) -> float:
        cell = self._cell(row, "duration")
        if not cell:
            return math.nan
        try:
            seconds = float(cell)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            raise BadInput(
                f"{self._at(row, 'duration')}: {cell!r} is not a duration",
                "give seconds, e.g. 2.5, or leave it empty",
            )
        return seconds

    def _paths(self, row: Row) -> tuple[str | None, str | None]:
        if "path" in self.mapped:
            return self._by_suffix(row)
        video = self._path(row, "video")
        audio = self._path(row, "audio") if "audio" in self.mapped else video
        return audio, video

    def _by_suffix(self, row: Row) -> tuple[str | None, str | None]:
        path = self._path(row, "path")
        if path is None:
            return None, None
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in AUDIO_SUFFIXES:
            return path, None
        if suffix in VIDEO_SUFFIXES:
            return path, path
        shown = suffix or posixpath.basename(path)
        raise BadInput(
            f"{self._at(row, 'path')}: {shown!r} is no known audio or video suffix",
            "name the column audio or video instead: --column audio=path",
        )

    def _path(self, row: Row, name: str) -> str | None:
        cell = self._cell(row, name)
        if not cell:
            return None
        if "\0" in cell:
            raise BadInput(f"{self._at(row, name)}: a path with a zero byte", "write the path again")
        path = posixpath.join(
            self.root, cell
        )  # an absolute cell stays as it is; pathlib takes 10 times longer
        self.media.setdefault(path, (row, name))
        return path


def _check_media(reader: _RowReader) -> None:
    missing = [(path, row, name) for path, (row, name) in reader.media.items() if not _is_file(path)]
    if not missing:
        return
    path, row, name = missing[0]
    column = reader.table.where(row, reader.mapped[name])
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise BadInput(
        f"{column}: no such file: {path}{more}",
        "correct the path, say where the media are with --media-root, or take the clips with --allow-missing",
    )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name the file system does not accept is a file that is not there
        return False
