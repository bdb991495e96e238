"""IEMOCAP as USC publishes it: `Session<K>/` with `dialog/{EmoEvaluation,transcriptions}`, `sentences/wav`.

A turn `Ses01F_impro01_F000` is of session 1, of dialogue `Ses01F_impro01` (F: whose movements were recorded),
and spoken by the woman (the F of its last part). The videos are of whole dialogues and are not read.
"""

import re
from pathlib import Path

from mer_featurestore.errors import BadInput
from mer_featurestore.layouts.gathering import Gathering, Place
from mer_featurestore.records import Clip

CLASSES = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth")
UNDECIDED = "xxx"  # the annotators did not agree
_HEADER = re.compile(r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\w+)\s+\[[^\]]*\]\s*$")
_SPOKEN = re.compile(r"(Ses\d\d[FM]_\S+)\s+\[[^\]]*\]:\s*(.*)$")
_TURN = re.compile(r"(Ses\d\d)[FM]_\w+_([FM])\w*\d+$")


def read(folder: Path, gather: Gathering) -> None:
    """Every turn that was judged is a clip: sound and words; the dialogue is the group.

    Turns the annotators disagreed on (`xxx`) have no label and are of split `unlabeled`, others of `train`:
    there is no official split, and folds by speaker and dialogue leave out a session each.
    """
    sessions = sorted(path for path in folder.glob("Session*") if path.is_dir())
    if not sessions:
        raise BadInput(f"{folder} has no Session1 … Session5", "name the folder IEMOCAP_full_release")
    undecided = 0
    for session in sessions:
        files = _texts_in(session / "dialog" / "EmoEvaluation")
        if not files:
            raise BadInput(f"{session / 'dialog' / 'EmoEvaluation'} holds no .txt files", "unpack it whole")
        for path in files:
            undecided += _read_dialogue(session.absolute(), path, gather)
    gather.note(f"{len(sessions)} sessions; {undecided} turns without a label: the annotators disagree")


def _texts_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


def _read_dialogue(session: Path, path: Path, gather: Gathering) -> int:
    """Add the turns of one evaluation file; return how many have no label."""
    dialogue, undecided = path.stem, 0
    spoken = _spoken(session / "dialog" / "transcriptions" / path.name)
    for number, line in enumerate(_lines(path), 1):
        if not line.startswith("["):
            continue  # the heading, and what single annotators said
        place = Place(path, number)
        begin, end, turn, emotion = _header(line, place)
        who = _TURN.match(turn)
        if who is None:
            raise BadInput(f"{place}: {turn!r} is not the name of a turn", "correct the line")
        label = "" if emotion == UNDECIDED else emotion
        undecided += not label
        clip = Clip(
            key=turn,
            split="train" if label else "unlabeled",
            speaker=who[1] + who[2],
            group=dialogue,
            audio=str(session / "sentences" / "wav" / dialogue / f"{turn}.wav"),
            text=spoken.get(turn),
            duration=end - begin,
        )
        gather.add(clip, place, label)
    return undecided


def _header(line: str, place: Place) -> tuple[float, float, str, str]:
    found = _HEADER.match(line)
    try:
        if found is not None and (end := float(found[2])) >= (begin := float(found[1])):
            return begin, end, found[3], found[4].lower()
    except ValueError:
        pass
    raise BadInput(
        f"{place}: {line.strip()[:60]!r} is torn", "it must read [begin - end] turn emotion [v, a, d]"
    )


def _spoken(path: Path) -> dict[str, str]:
    """Return turn -> words; lines of other forms (laughter between turns …) belong to no turn."""
    if not path.is_file():
        return {}
    found = (_SPOKEN.match(line) for line in _lines(path))
    return {match[1]: match[2].strip() for match in found if match}


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace").splitlines()
