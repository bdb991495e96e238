"""CMU-MOSEI as MMSA distributes it: `label.csv` and `Raw/<video_id>/<clip_id>.mp4`; MOSI and CH-SIMS alike.

Columns: video_id, clip_id, text, label (sentiment, -3 to 3), annotation (Negative, Neutral, Positive), mode
(train, valid, test). Keys are MMSA's ids, `<video_id>$_$<clip_id>`, so that its feature files join.
"""

import math
from pathlib import Path

from mer_featurestore.errors import BadInput
from mer_featurestore.layouts.gathering import (
    Gathering,
    Place,
    cell,
    first_file,
    first_folder,
    rows_of,
    table_of,
)  # fmt: skip
from mer_featurestore.records import Clip
from mer_featurestore.wording import plural

CLASSES = ("Negative", "Neutral", "Positive")
_DIGITS = 4  # of the names of CH-SIMS' files; spreadsheets drop leading zeros from the table


def read(folder: Path, gather: Gathering) -> None:
    """Splits are the file's modes; the video is the group. Without `annotation` the sign of `label` decides.

    A sentiment below 0 is Negative, 0 Neutral, above Positive, whichever column it is read from.
    """
    path = first_file(folder, ("label.csv", "labels.csv"))
    if path is None:
        raise BadInput(f"{folder} has no label.csv", "name the folder that holds label.csv and Raw/")
    table = table_of(path)
    media = (first_folder(folder, ("Raw", "raw", "Video/Segmented", "video")) or folder / "Raw").absolute()
    video_id = gather.column(table, "group", "video_id")
    clip_id = gather.column(table, "key", "clip_id")
    label = gather.column(table, "label", "annotation", "label")
    text, mode = gather.optional(table, "text", "text"), gather.optional(table, "split", "mode")
    for row, video, place in rows_of(table, video_id):
        number = cell(row, clip_id)
        if not number:
            raise BadInput(f"{table.where(row, clip_id)}: empty clip_id", "give every row its clip")
        sentiment = emotion(cell(row, label))
        file = str(_file(media / video, number))
        clip = Clip(
            key=f"{video}$_${number}",
            split=cell(row, mode) or ("train" if sentiment else "unlabeled"),
            group=video,
            audio=file,
            video=file,
            text=cell(row, text) if text else None,
        )
        gather.add(clip, Place(place.file, place.line, label), sentiment)
    clips = plural(len(table.rows), "clip")
    gather.note(f"{path.name}: {clips}, classes from column {label}, media below {media.name}/")


def _file(folder: Path, number: str) -> Path:
    plain = folder / f"{number}.mp4"
    padded = folder / f"{number.zfill(_DIGITS)}.mp4"
    return padded if padded.is_file() and not plain.is_file() else plain


def emotion(text: str) -> str:
    """Return the class of a cell: a number's sign, anything else as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if math.isnan(value) else CLASSES[1 + (value > 0) - (value < 0)]
