"""MMSA and MMSA-FET feature files: one pickle with the features of three modalities, labels and splits.

Layout as of the MMSA data loader: `{"train": {...}, "valid": {...}, "test": {...}}`, each with `id` and,
where there are any, `audio`, `vision` and `text` `[N, T, D]` padded at the end, `audio_lengths`,
`vision_lengths`, `text_bert [N, 3, T]` (whose second row masks the words), `raw_text` and `annotations`.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.content import file_hash
from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.safe_pickle import load_pickle
from mer_featurestore.interchange.sources import Items, Source, check_unique, make_source, numbers, readable
from mer_featurestore.records import Clip, Modality

MEMBERS: dict[str, Modality] = {"audio": "audio", "vision": "video", "text": "text"}
"""What MMSA calls its modalities -> our names."""


@dataclass(frozen=True)
class MmsaFile:
    """What such a file holds.

    Attributes:
        sources: Modality as MMSA calls it -> features, frame level.
        clips: One per id, with split, transcript and group (the video it was cut from).
        labels: Clip -> annotation, where the file has any.
    """

    sources: dict[str, Source]
    clips: tuple[Clip, ...]
    labels: dict[str, str]


def read_mmsa(path: Path, *, corpus: str = "") -> MmsaFile:
    """Read an MMSA or MMSA-FET pickle, without executing anything in it.

    Args:
        path: The .pkl.
        corpus: Corpus of its clips.

    Raises:
        BadInput: It names anything but numpy arrays and plain containers, or has another layout.
    """
    with readable(str(path), remedy="it must have the layout that MMSA reads"):
        return _file(path, load_pickle(path), corpus)


def _file(path: Path, document: Any, corpus: str) -> MmsaFile:
    if not isinstance(document, dict):
        raise BadInput(f"{path} holds a {type(document).__name__}", "it must be the dict that MMSA reads")
    parts = {"": document} if "id" in document else {str(k): v for k, v in document.items() if v}
    parts = {
        split: part for split, part in parts.items() if isinstance(part, dict) and len(part.get("id", ()))
    }
    if not parts:
        raise BadInput(f"{path} has no ids of clips", "it must have splits such as 'train', each with 'id'")
    ids = {split: _ids(part["id"]) for split, part in parts.items()}
    check_unique(path, [key for keys in ids.values() for key in keys])
    content = file_hash(path)
    sources = {}
    for member in MEMBERS:
        arrays = [_arrays(part, member, len(ids[s]), f"{path}, {s or 'file'}") for s, part in parts.items()]
        if any(arrays):
            pairs = [
                pair
                for keys, found in zip(ids.values(), arrays, strict=True)
                for pair in zip(keys, found, strict=False)
            ]
            sources[member] = _source(path, member, pairs, content)
    if not sources:
        raise BadInput(f"{path} has none of audio, vision, text", "it must hold features")
    clips = [clip for split, part in parts.items() for clip in _clips(part, ids[split], split, corpus)]
    labels = {k: v for split, part in parts.items() for k, v in _labels(part, ids[split]).items()}
    return MmsaFile(sources, tuple(clips), labels)


def _ids(value: Any) -> list[str]:
    """Return the ids as text; a row of several (video, begin, end) is joined."""
    return ["_".join(map(_text, i)) if isinstance(i, (list, tuple, np.ndarray)) else _text(i) for i in value]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _arrays(part: Mapping[str, Any], member: str, count: int, where: str) -> list[NDArray[Any]]:
    """Return one array `[T, D]` per clip, cut to its length; none when the part lacks the modality."""
    features = part.get(member)
    if features is None or not len(features):
        return []
    if len(features) != count:
        raise BadInput(f"{where}: {len(features)} {member} features for {count} ids", "the file is not whole")
    if not all(isinstance(array, np.ndarray) for array in features):
        raise BadInput(f"{where}: {member} holds {type(features[0]).__name__}", "features are numpy arrays")
    lengths = _lengths(part, member, count)
    cut = features if lengths is None else [a[:n] for a, n in zip(features, lengths, strict=True)]
    return [numbers(array, f"{where}, {member}") for array in cut]


def _lengths(part: Mapping[str, Any], member: str, count: int) -> list[int] | None:
    lengths = part.get(f"{member}_lengths")
    if lengths is None and member == "text":
        bert = part.get("text_bert")
        if isinstance(bert, np.ndarray) and bert.ndim == 3 and bert.shape[1] == 3:
            lengths = bert[:, 1].sum(axis=1)
    if lengths is None or len(lengths) != count:
        return None
    return [max(0, int(np.max(n))) for n in lengths]


def _source(path: Path, member: str, pairs: Sequence[tuple[str, NDArray[Any]]], content: str) -> Source:
    def items(wanted: Container[str]) -> Items:
        return ((key, array) for key, array in pairs if key in wanted)

    keys = [key for key, _ in pairs]
    return make_source("mmsa", path, keys, items, level="frame", content=content, facts={"member": member})


def _clips(part: Mapping[str, Any], ids: Sequence[str], split: str, corpus: str) -> list[Clip]:
    texts = part.get("raw_text")
    texts = texts if texts is not None and len(texts) == len(ids) else None
    return [
        Clip(
            key=key,
            corpus=corpus,
            split=split or "unlabeled",
            group=key.partition("$_$")[0] if "$_$" in key else "",
            text=None if texts is None else _text(texts[i]),
        )
        for i, key in enumerate(ids)
    ]


def _labels(part: Mapping[str, Any], ids: Sequence[str]) -> dict[str, str]:
    annotations = part.get("annotations")
    if annotations is None or len(annotations) != len(ids):
        return {}
    return {key: _text(label) for key, label in zip(ids, annotations, strict=True) if _text(label).strip()}
