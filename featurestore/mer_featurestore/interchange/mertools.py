"""MERTools: a folder of one .npy per clip, and label files of dicts.

Layout as of MERTools' MER2023 and MER2024 baselines: `<encoder>-UTT/<clip>.npy` is `[D]`,
`<encoder>-FRA/<clip>.npy` is `[T, D]` (or a folder of one .npy per frame); labels are an .npz with one dict
per corpus, `train_corpus` and so on, clip -> `{"emo": class, "val": valence}`, saved as pickled objects.
"""

import zipfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.safe_pickle import read_pickle
from mer_featurestore.interchange.sources import (
    Items,
    Source,
    check_unique,
    load_npy,
    make_source,
    numbers,
    readable,
    tree_hash,
)
from mer_featurestore.records import LEVEL_SUFFIX, Level, Progress

_CORPUS = "_corpus"


def from_mertools(folder: Path, *, level: Level | None = None, progress: Progress | None = None) -> Source:
    """Open a folder of one .npy (or one folder of .npy frames) per clip.

    Args:
        folder: The folder; `-UTT` or `-FRA` at the end of its name says the level.
        level: `utt` or `frame`, when the name does not say.
        progress: Called with (files hashed, files in all).

    Raises:
        BadInput: It is no folder, or holds no features.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", "name the folder of .npy files, e.g. hubert-large-UTT")
    paths = [path for path in sorted(folder.iterdir()) if _is_clip(path)]
    keys = [path.stem if path.suffix == ".npy" else path.name for path in paths]
    check_unique(folder, keys)  # a.npy beside a folder a
    clips = dict(zip(keys, paths, strict=True))
    if not clips:
        inner = sorted(p.name for p in folder.iterdir() if p.is_dir())
        remedy = f"name one of the folders in it, e.g. {folder / inner[0]}" if inner else "check the path"
        raise BadInput(f"{folder} holds no .npy files", remedy)
    files = [
        file for path in clips.values() for file in ([path] if path.is_file() else sorted(path.glob("*.npy")))
    ]

    def items(wanted: Container[str]) -> Items:
        for key, path in clips.items():
            if key in wanted:
                try:
                    array = numbers(_load(path), str(path))
                except BadInput as error:
                    yield key, error
                else:
                    yield key, array

    content = tree_hash(folder, files, progress)
    return make_source(
        "mertools", folder, list(clips), items, level=level or level_of(folder.name), content=content
    )


def level_of(name: str) -> Level | None:
    """Return the level a name ends with, `-UTT` or `-FRA`; None when it does not say."""
    return next(
        (level for level, suffix in LEVEL_SUFFIX.items() if name.upper().endswith(f"-{suffix}")), None
    )


def _is_clip(path: Path) -> bool:
    if path.name.startswith("."):  # what macOS leaves beside a file
        return False
    return path.suffix == ".npy" if path.is_file() else any(path.glob("*.npy"))


def _load(path: Path) -> NDArray[Any]:
    if path.is_file():
        return load_npy(path)
    frames = [np.ravel(load_npy(frame)) for frame in sorted(path.glob("*.npy"))]
    if len({len(frame) for frame in frames}) > 1:
        raise BadInput(f"the frames in {path} have different lengths", "every frame must have the same")
    return np.stack(frames)


def read_label_npz(path: Path, *, classes: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """Read a MERTools label file, without executing the pickles in it.

    Args:
        path: The .npz.
        classes: What class numbers mean, for files that give numbers instead of names.

    Returns:
        Split (`train` for `train_corpus` …) -> clip -> class; clips without one are left out.

    Raises:
        BadInput: The file is not readable, of another form, or would execute code.
    """
    with readable(str(path), "is not an .npz file"), zipfile.ZipFile(path) as archive:
        corpora = {
            name.removesuffix(".npy"): _read_member(archive, name, path)
            for name in archive.namelist()
            if name.endswith(".npy")
        }
    splits = {n.removesuffix(_CORPUS): _labels(c, f"{path}, {n}", classes) for n, c in corpora.items()}
    if not any(splits.values()):
        raise BadInput(f"{path} holds no labels", "it must map clips to {'emo': class}")
    return splits


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    with archive.open(name) as file:
        array = read_object_array(file, f"{path}, {name}")
    return array.item() if array.ndim == 0 else array


def read_object_array(file: IO[bytes], where: str) -> NDArray[Any]:
    """Read an array in .npy format; one of objects through the safe unpickler."""
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise BadInput(
            f"{where} holds {dtype}{list(shape)} and no dict", "it must map clips to {'emo': class}"
        )
    array = read_pickle(file, where)
    if not isinstance(array, np.ndarray) or array.dtype != object:
        raise BadInput(f"{where} is not an array of objects", "save it with numpy.savez")
    return array


def _labels(corpus: Any, where: str, classes: Sequence[str] | None) -> dict[str, str]:
    if not isinstance(corpus, dict):
        raise BadInput(
            f"{where} is a {type(corpus).__name__} and no dict", "it must map clips to {'emo': class}"
        )
    found = {}
    for clip, facts in corpus.items():
        emotion = facts.get("emo") if isinstance(facts, dict) else facts
        if isinstance(emotion, (int, np.integer)) and not isinstance(emotion, bool):
            emotion = _by_number(int(emotion), clip, where, classes)
        if emotion is not None and not isinstance(emotion, str):
            raise BadInput(
                f"{where}: the class of clip {clip!r} is {emotion!r}", "it must be a name or a number"
            )
        if emotion and emotion.strip():
            found[str(clip)] = emotion.strip()
    return found


def _by_number(number: int, clip: object, where: str, classes: Sequence[str] | None) -> str | None:
    if number < 0:
        return None
    if classes is None:
        raise BadInput(f"{where} gives classes as numbers", "say what they mean: --classes neutral,angry,…")
    if number >= len(classes):
        raise BadInput(
            f"{where}: the class of clip {clip!r} is {number}", f"there are {len(classes)} classes"
        )
    return classes[number]
