"""The CSV that a challenge wants: one class for every clip of a split, joined by key."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import UnknownName
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
        run: Whose predictions.
        split: Whose clips.
        rows: Clips in the file: all of the split.
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
    form: str = "mer2024",
    columns: tuple[str, str] | None = None,
    fallback: str | None = None,
    device: str = "auto",
) -> Submission:
    """Write a class for every clip of a split, in the catalogue's order.

    Args:
        store: The store.
        run: A run, or its name.
        path: CSV file, UTF-8; replaced when it is there.
        split: Whose clips.
        form: A name in `FORMATS`.
        columns: Names of the two columns instead of the form's.
        fallback: Class of clips without any of the run's features; None takes the most frequent class of the
            human-labelled clips the run was trained on.
        device: torch device, or `auto`.

    Raises:
        UnknownName: No such run, split, format, or class for `fallback`.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        ZooError: None of the clips has features, or the columns have one name.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    if form not in FORMATS:
        raise UnknownName("submission format", form, FORMATS)
    name, emotion = columns or FORMATS[form]
    if name == emotion:
        raise ZooError(f"both columns would be named {name!r}", "give two names: --columns name,emotion")
    fallback = _fallback(run, fallback)
    found = predict(store, run, split, device=device)
    said = dict(zip(found.keys, found.labels, strict=True))
    keys = [clip.key for clip in store.clips.select(split=split)]
    chosen = {key: said.get(key, fallback) for key in keys}
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((name, emotion))
        writer.writerows(chosen.items())
    counts = {label: list(chosen.values()).count(label) for label in run.config.classes}
    return Submission(Path(path), run.name, split, len(chosen), counts, fallback, found.missing)


def _fallback(run: Run, given: str | None) -> str:
    if given is None:
        return max(run.config.classes, key=lambda name: run.scores.per_class[name].support)
    if given not in run.config.classes:
        raise UnknownName(f"class of {run.name}", given, run.config.classes)
    return given
