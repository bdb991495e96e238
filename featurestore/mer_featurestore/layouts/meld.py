"""MELD: `train_sent_emo.csv` and its kin, media `dia<D>_utt<U>.mp4` in a folder per split.

As declare-lab publishes it (MELD.Raw): the test clips lie in `output_repeated_splits_test`, where
`final_videos_test…` files are of another corpus, and one dev clip (dialogue 110, utterance 7) has no media.
Keys are those MERTools makes: `train_dia0_utt0`, `val_dia0_utt0`, `test_dia0_utt0`.
"""

from pathlib import Path

from mer_featurestore.csvfile import Row, Table
from mer_featurestore.errors import BadInput
from mer_featurestore.layouts.gathering import (
    Gathering,
    Place,
    cell,
    first_file,
    first_folder,
    table_of,
)  # fmt: skip
from mer_featurestore.records import Clip
from mer_featurestore.wording import plural

CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
FOLDERS = {
    "train": ("train_splits", "train"),
    "dev": ("dev_splits_complete", "dev"),
    "test": ("output_repeated_splits_test", "test"),
}
_PREFIX = {"train": "train", "dev": "val", "test": "test"}


def read(folder: Path, gather: Gathering) -> None:
    """Splits are `train`, `dev` and `test`; the dialogue is the group, the character the speaker."""
    missing = [split for split in FOLDERS if not _read_split(folder, split, gather)]
    if len(missing) == len(FOLDERS):
        raise BadInput(
            f"{folder} has none of train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv",
            "name MELD's own folder",
        )
    if missing:
        gather.note("not found: " + ", ".join(f"{split}_sent_emo.csv" for split in missing))


def _read_split(folder: Path, split: str, gather: Gathering) -> bool:
    name = f"{split}_sent_emo.csv"
    path = first_file(folder, (name, f"{split}/{name}", f"data/MELD/{name}"))
    if path is None:
        return False
    table = table_of(path)
    media = first_folder(folder, [f"{a}{b}" for b in FOLDERS[split] for a in (f"{split}/", "")])
    media = (media or folder / FOLDERS[split][0]).absolute()
    dialogue = gather.column(table, "group", "Dialogue_ID")
    utterance = gather.column(table, "key", "Utterance_ID")
    label = gather.column(table, "label", "Emotion")
    text = gather.column(table, "text", "Utterance")
    speaker = gather.optional(table, "speaker", "Speaker")
    for row in table.rows:
        turn = f"dia{_number(table, row, dialogue)}_utt{_number(table, row, utterance)}"
        file = str(media / f"{turn}.mp4")
        clip = Clip(
            key=f"{_PREFIX[split]}_{turn}",
            split=split,
            speaker=repaired(cell(row, speaker)),
            group=f"{split}_{turn.partition('_')[0]}",
            audio=file,
            video=file,
            text=repaired(cell(row, text)),
        )
        gather.add(clip, Place(table.path, row.line, label), cell(row, label))
    gather.note(f"{table.path.name}: {plural(len(table.rows), 'clip')} of {media.name}/")
    return True


def _number(table: Table, row: Row, column: str) -> int:
    try:
        return int(row.cells[column])
    except ValueError:
        raise BadInput(
            f"{table.where(row, column)}: {row.cells[column]!r} is no number", "correct the row"
        ) from None


def repaired(text: str) -> str:
    """Return text with Windows punctuation that was taken for Latin-1 on its way to UTF-8, as MELD's was."""
    return "".join(bytes([ord(c)]).decode("cp1252", "ignore") if 0x80 <= ord(c) <= 0x9F else c for c in text)
