"""MER2024 (and MER2023): the challenge's folder, as released and as MERTools' preprocessing lays it out.

Released: `video-labeled/`, `video-unlabeled/` or `video-unlabeled-with-test2noise/`, `label-disdim.csv`
(name, discrete, valence), `label-transcription.csv` (name, chinese, english), after the challenge also
`reference-semi.csv` and `reference-noise.csv` (name, discrete). MERTools' `mer2024-dataset-process`:
`video/`, `audio/`, `label-6way.npz`, `transcription-merge.csv` (MERTools, MER2024/config.py, run-mer2024.sh,
toolkit/preprocess/mer2024.py).
"""

from collections.abc import Mapping
from pathlib import Path

from mer_featurestore.catalogue import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.mertools import read_label_npz
from mer_featurestore.layouts.gathering import (
    Gathering,
    Place,
    cell,
    first_file,
    media_in,
    rows_of,
    some,
    stem,
    table_of,
)  # fmt: skip
from mer_featurestore.records import Clip
from mer_featurestore.wording import plural

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
LABELS = ("label-disdim.csv", "label.csv", "train-label.csv", "train_label.csv", "label-6way.npz")
TRANSCRIPTS = (
    "transcription-merge.csv", "transcription_merge.csv", "label-transcription.csv",
    "transcription-engchi-polish.csv", "transcription.csv",
)  # fmt: skip
REFERENCES, CANDIDATES = "reference-*.csv", "*candidate*.csv"
_FOLDERS = ("", "-labeled", "-unlabeled-with-test2noise", "-unlabeled")  # of two of one name, the first
_NAME, _CLASS = ("name", "key", "filename"), ("discrete", "emotion", "label")
_TEXT = ("chinese", "sentence", "text", "transcript", "english")


def read(folder: Path, gather: Gathering) -> None:
    """Labelled clips become split `train`, those of a reference file `test`, all others `unlabeled`.

    Of transcripts, the checked ones (`-merge`) come first; `--column text=english` takes the translation.
    """
    media = {kind: _media(folder, kind, gather) for kind in ("video", "audio")}
    train = _labels(folder, gather)
    test = _tables(folder, REFERENCES, gather, _CLASS)
    listed = _tables(folder, CANDIDATES, gather, ())
    texts = _texts(folder, gather)
    names = dict.fromkeys([*train, *test, *media["video"], *media["audio"], *listed])
    for name in names:
        label, place = train.get(name) or test.get(name) or listed.get(name) or ("", None)
        if name in train and name in test:
            raise BadInput(f"{test[name][1]}: clip {name!r} is also at {train[name][1]}", "remove one")
        expected = gather.folder / "video" / f"{name}.mp4"
        video = media["video"].get(name, None if name in media["audio"] else expected)
        audio = media["audio"].get(name, video)
        split = "train" if train.get(name, ("",))[0] else "test" if name in test else "unlabeled"
        clip = Clip(
            key=name,
            split=split,
            audio=str(audio),
            video=None if video is None else str(video),
            text=texts.get(name),
        )
        gather.add(clip, place, label)
    strays = [name for name in texts if name not in names]
    if strays:
        gather.note(f"{len(strays)} transcripts belong to no clip: {some(strays)}")


def _media(folder: Path, kind: str, gather: Gathering) -> dict[str, Path]:
    """Return name -> file over all folders `video…` (or `audio…`), best first."""
    first = [folder / f"{kind}{rest}" for rest in _FOLDERS]
    folders = [path for path in first if path.is_dir()]
    folders += [p for p in sorted(folder.glob(f"{kind}[-_]*")) if p.is_dir() and p not in first]
    found: dict[str, Path] = {}
    for path in folders:
        here = media_in(path.absolute(), VIDEO_SUFFIXES if kind == "video" else AUDIO_SUFFIXES)
        twice = [name for name in here if name in found]
        if twice:
            gather.note(
                f"{plural(len(twice), 'clip')} of {path.name}/ are taken from {found[twice[0]].parent.name}/"
            )
        found = here | found
        gather.note(f"{path.name}/: {plural(len(here), 'file')}")
    if not folders:
        rest = "; the sound is the videos' own" if kind == "audio" else ""
        gather.note(f"not found: {kind}/{rest}")
    return found


def _labels(folder: Path, gather: Gathering) -> Mapping[str, tuple[str, Place]]:
    path = first_file(folder, LABELS)
    if path is None:
        gather.note(f"not found: labels ({', '.join(LABELS)})")
        return {}
    if path.suffix == ".npz":
        # Its other parts are no labels: the baseline fills test1_corpus with 'neutral' for want of any.
        labels = read_label_npz(path, classes=CLASSES).get("train", {})
        gather.note(
            f"{path.name}: {plural(len(labels), 'label')} of train_corpus; its other parts are left out"
        )
        return {name: (label, Place(path, i)) for i, (name, label) in enumerate(labels.items(), 1)}
    return _table(path, gather, _CLASS)


def _tables(
    folder: Path, pattern: str, gather: Gathering, classes: tuple[str, ...]
) -> dict[str, tuple[str, Place]]:
    found: dict[str, tuple[str, Place]] = {}
    for path in sorted(folder.glob(pattern)):
        for name, (label, place) in _table(path, gather, classes).items():
            if name in found:
                raise BadInput(f"{place}: clip {name!r} is already at {found[name][1]}", "remove one row")
            found[name] = (label, place)
    return found


def _table(path: Path, gather: Gathering, classes: tuple[str, ...]) -> dict[str, tuple[str, Place]]:
    """Return name -> class and place of a file; without classes the file is a list of names."""
    table = table_of(path)
    names = gather.column(table, "key", *_NAME)
    column = gather.column(table, "label", *classes) if classes else None
    found: dict[str, tuple[str, Place]] = {}
    for row, name, place in rows_of(table, names):
        if (key := stem(name)) in found:
            raise BadInput(f"{place}: clip {key!r} is already on line {found[key][1].line}", "remove one row")
        found[key] = cell(row, column), Place(path, row.line, column or names)
    gather.note(f"{path.name}: {plural(len(found), 'clip')}")
    return found


def _texts(folder: Path, gather: Gathering) -> dict[str, str]:
    """Return name -> words, of the first file that has the clip."""
    texts: dict[str, str] = {}
    for path in (folder / name for name in TRANSCRIPTS):
        if path.is_file():
            table = table_of(path)
            column = gather.column(table, "text", *_TEXT)
            here = {
                stem(n): cell(row, column)
                for row, n, _ in rows_of(table, gather.column(table, "key", *_NAME))
            }
            texts = here | texts
            gather.note(f"{path.name}: {len(here)} transcripts, column {column}")
    if not texts:
        gather.note(f"not found: transcripts ({', '.join(TRANSCRIPTS)})")
    return texts
