"""Corpus folders in their published layouts: the same clips and labels a CSV gives, and every complaint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.catalogue import Catalogue, read_catalogue
from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.ingest import ingest
from mer_featurestore.layouts import LAYOUTS, read_layout
from mer_featurestore.layouts.meld import repaired

Files = dict[str, str | bytes]


def make(folder: Path, files: Files) -> Path:
    """Write files below a folder; return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


MER2024: Files = {
    "video-labeled/s1.mp4": "v1",
    "video-labeled/s2.avi": "v2",
    "video-labeled/._s1.mp4": "mac",
    "video-unlabeled/s3.mp4": "v3",
    "video-unlabeled/s4.mp4": "v4",
    "audio/s2.wav": "a2",
    "label-disdim.csv": "name,discrete,valence\ns1,happy,1.5\ns2,Worried,-1\n",
    "label-transcription.csv": "name,chinese,english\ns1,很好,fine\ns9,x,y\n",
    "transcription.csv": "name,sentence\ns1,old\ns3,喂\n",
}
MELD: Files = {
    f"{split}_sent_emo.csv": (
        "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
        f'1,"I\u0092m {split}, ok",Joey,joy,positive,0,0\n2,Oh no.,Ross,fear,negative,0,1\n'
    )
    for split in ("train", "dev", "test")
} | {
    f"{folder}/dia0_utt{i}.mp4": f"{folder}{i}"
    for folder in ("train/train_splits", "dev_splits_complete", "test/output_repeated_splits_test")
    for i in (0, 1)
}
MOSEI: Files = {
    "label.csv": (
        "video_id,clip_id,text,label,annotation,mode\n"
        "-abc,0,Good,1.2,Positive,train\n-abc,1,Bad,-0.4,Negative,train\nxyz,0,So,0,Neutral,test\n"
    ),
    "Raw/-abc/0.mp4": "0",
    "Raw/-abc/0001.mp4": "1",
    "Raw/xyz/0.mp4": "2",
}
EVALUATION = (
    "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n\n"
    "[10.01 - 11.39]\tSes01F_impro01_M001\texc\t[2.5, 2.5, 2.5]\n"
    "[12.0 - 13.0]\tSes01F_impro01_F001\txxx\t[2.5, 2.5, 2.5]\n"
    "[14.0 - 15.0]\tSes01F_impro01_M002\tfru\t[2.5, 2.5, 2.5]\n"
)
IEMOCAP: Files = {
    "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": EVALUATION,
    "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt": b"\x00mac",
    "Session1/dialog/transcriptions/Ses01F_impro01.txt": (
        "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\nM: (laughs)\n"
        "Ses01F_impro01_M001 [010.0100-011.3900]: Do you have your forms?\n"
    ),
} | {
    f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{t}.wav": t
    for t in ("F000", "M001", "F001", "M002")
}
CORPORA = {"mer2024": MER2024, "meld": MELD, "mosei": MOSEI, "iemocap": IEMOCAP}

Read = Callable[..., Catalogue]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes a layout's sample corpus, changed as said, and reads it."""

    def call(
        name: str, changes: Files | None = None, without: tuple[str, ...] = (), **how: object
    ) -> Catalogue:
        files = {k: v for k, v in (CORPORA[name] | (changes or {})).items() if k not in without}
        return read_layout(name, make(tmp_path / name, files), **how)

    return call


def shown(read: Catalogue) -> dict[str, tuple[str, str, str, str | None, str]]:
    """Return key -> split, speaker, group, text, label."""
    return {c.key: (c.split, c.speaker, c.group, c.text, read.labels.get(c.key, "")) for c in read.clips}


def test_mer2024_as_released(read: Read) -> None:
    """Labelled clips train, others are unlabelled; sound, videos and checked transcripts are found."""
    found = read("mer2024")
    assert shown(found) == {
        "s1": ("train", "", "", "很好", "happy"),
        "s2": ("train", "", "", None, "worried"),
        "s3": ("unlabeled", "", "", "喂", ""),
        "s4": ("unlabeled", "", "", None, ""),
    }
    clips = {clip.key: clip for clip in found.clips}
    assert clips["s1"].audio == clips["s1"].video
    assert Path(clips["s2"].audio or "").parts[-2:] == ("audio", "s2.wav")
    assert Path(clips["s2"].video or "").suffix == ".avi"
    assert all(Path(clip.video or "").is_absolute() and clip.content_hash for clip in found.clips)
    assert found.classes == ("neutral", "angry", "happy", "sad", "worried", "surprise")
    told = "\n".join(found.notices)
    assert "video-labeled/: 2 files" in told
    assert "1 transcripts belong to no clip: s9" in told


def test_mer2024_gives_what_a_csv_gives(read: Read, tmp_path: Path) -> None:
    """The store is the same as after a CSV of the same rows, and reading the folder again changes nothing."""
    found = read("mer2024", corpus="c")
    folder = tmp_path / "mer2024"
    (folder / "clips.csv").write_text(
        "key,video,audio,text,corpus,emotion\ns1,video-labeled/s1.mp4,video-labeled/s1.mp4,很好,c,happy\n"
        "s3,video-unlabeled/s3.mp4,video-unlabeled/s3.mp4,喂,c,\n"
    )
    by_key = {clip.key: clip for clip in found.clips}
    for clip in read_catalogue(folder / "clips.csv").clips:
        assert by_key[clip.key] == clip
    store = Store.create(tmp_path / "store")
    report = ingest(store, found)
    assert (report.clips.added, len(store.labels["gold"]), store.commit) == (4, 2, 1)
    assert store.labels["gold"].classes == found.classes
    assert store.labels["gold"].attrs["imported_from"] == "label-disdim.csv"
    assert ingest(store, read("mer2024", corpus="c")).commit == 1


def test_mer2024_options_and_other_names(read: Read) -> None:
    """The translation by --column; references are test clips; of two videos the noisy one is taken."""
    found = read("mer2024", {
        "reference-semi.csv": "name,discrete\ns3,sad\n",
        "candidate.csv": "name\ns3\ns4\n",
        "video-unlabeled-with-test2noise/s4.mp4": "noise",
    }, ("transcription.csv",), columns={"text": "english"})  # fmt: skip
    assert shown(found)["s1"][3] == "fine"
    assert shown(found)["s3"] == ("test", "", "", None, "sad")
    assert found.where("s3").endswith("reference-semi.csv, line 2, column discrete")
    noisy = next(clip for clip in found.clips if clip.key == "s4")
    assert Path(noisy.video or "").parent.name == "video-unlabeled-with-test2noise"
    assert any(
        "1 clip of video-unlabeled/ are taken from video-unlabeled-with-test2noise/" in n
        for n in found.notices
    )
    with pytest.raises(BadInput, match=r"transcription.csv has no column 'chines'.*did you mean 'chinese'"):
        read("mer2024", {"transcription.csv": "name,chinese\ns1,x\n"}, columns={"text": "chines"})


def test_mer2024_from_mertools(read: Read, tmp_path: Path) -> None:
    """MERTools' folder: one video/, labels as .npz, of which only the training part is believed."""
    folder = make(
        tmp_path / "p",
        {"video/s1.mp4": "1", "video/s3.mp4": "3", "transcription-merge.csv": "name,chinese\ns3,喂\n"},
    )
    train, test = {"s1": {"emo": "happy"}}, {"s3": {"emo": "neutral"}}
    np.savez(
        folder / "label-6way.npz", train_corpus=np.array(train, object), test1_corpus=np.array(test, object)
    )
    assert shown(read_layout("mer2024", folder)) == {
        "s1": ("train", "", "", None, "happy"),
        "s3": ("unlabeled", "", "", "喂", ""),
    }


def test_meld(read: Read) -> None:
    """Three splits, dialogue and speaker, MERTools' keys, media where they were unpacked, mended quotes."""
    found = read("meld")
    assert shown(found)["val_dia0_utt0"] == ("dev", "Joey", "dev_dia0", "I\u2019m dev, ok", "joy")
    assert [clip.split for clip in found.clips] == ["train", "train", "dev", "dev", "test", "test"]
    assert Path(found.clips[-1].video or "").parts[-3:] == (
        "test",
        "output_repeated_splits_test",
        "dia0_utt1.mp4",
    )
    assert repaired("caf\u00e9 \u0093x\u0094") == "café “x”"
    rows = b"Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\nI\x92m,J,joy,0,0\n"
    latin = read("meld", {"test_sent_emo.csv": rows})
    assert shown(latin)["test_dia0_utt0"][3] == "I\u2019m"


def test_mosei(read: Read) -> None:
    """Keys are MMSA's ids, the video is the group; padded names are found; a number's sign is a class."""
    found = read("mosei")
    assert shown(found) == {
        "-abc$_$0": ("train", "", "-abc", "Good", "Positive"),
        "-abc$_$1": ("train", "", "-abc", "Bad", "Negative"),
        "xyz$_$0": ("test", "", "xyz", "So", "Neutral"),
    }
    signs = read("mosei", columns={"label": "label"})
    assert signs.labels == found.labels


def test_iemocap(read: Read) -> None:
    """Turns with speaker, dialogue, words and seconds; what annotators disagree on has no label."""
    found = read("iemocap")
    assert shown(found) == {
        "Ses01F_impro01_F000": ("train", "Ses01F", "Ses01F_impro01", "Excuse me.", "neu"),
        "Ses01F_impro01_M001": ("train", "Ses01M", "Ses01F_impro01", "Do you have your forms?", "exc"),
        "Ses01F_impro01_F001": ("unlabeled", "Ses01F", "Ses01F_impro01", None, ""),
        "Ses01F_impro01_M002": ("train", "Ses01M", "Ses01F_impro01", None, "fru"),
    }
    assert found.clips[0].duration == pytest.approx(1.9456)
    assert found.clips[0].video is None


def test_the_usual_four_classes(read: Read, tmp_path: Path) -> None:
    """Merged classes count as one; classes that are not asked for lose their label and leave train."""
    found = read("iemocap", merge={"exc": "hap"}, classes=("ang", "hap", "sad", "neu"))
    assert found.labels == {"Ses01F_impro01_F000": "neu", "Ses01F_impro01_M001": "hap"}
    assert found.clips[3].split == "unlabeled"
    assert "1 label left out, of classes not asked for: fru 1" in found.notices
    store = Store.create(tmp_path / "store")
    assert ingest(store, found).layer is not None
    assert store.labels["gold"].classes == ("ang", "hap", "sad", "neu")
    with pytest.raises(UnknownName, match="no class of layout iemocap named 'excit'; did you mean 'exc'"):
        read("iemocap", merge={"excit": "hap"})


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_media(read: Read, name: str) -> None:
    """A medium that is not there is named with the line that asks for it; --allow-missing takes the clip."""
    gone = {
        "mer2024": "video-labeled/s1.mp4",
        "meld": "dev_splits_complete/dia0_utt1.mp4",
        "mosei": "Raw/xyz/0.mp4",
        "iemocap": "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
    }[name]  # fmt: skip
    with pytest.raises(BadInput, match=r"line \d+.*: no such file: .*--allow-missing"):
        read(name, without=(gone,))
    found = read(name, without=(gone,), allow_missing=True)
    assert len(found.clips) == len(read(name).clips)
    if name in ("meld", "mosei", "iemocap"):  # mer2024 lists the media there are
        assert any("1 clip whose media are not there" in notice for notice in found.notices)


_EVALUATION_FILE = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
TORN = [
    ("mer2024", "label-disdim.csv", "name,discrete\ns1\n", r"label-disdim.csv, line 2: 1 cells"),
    (
        "mer2024", "label-disdim.csv", "name,discrete\ns1,sad\ns1,sad\n",
        r"line 3, column name: clip 's1' is already on line 2",
    ),
    (
        "mer2024", "label-disdim.csv", "name,mood\ns1,sad\n",
        r"no column 'discrete' \(it has: name, mood\); say which it is: --column label=NAME",
    ),
    (
        "mer2024", "reference-semi.csv", "name,discrete\ns1,sad\n",
        r"reference-semi.csv, line 2.*'s1' is also at .*label-disdim.csv, line 2",
    ),
    (
        "meld", "train_sent_emo.csv", "Utterance,Emotion,Dialogue_ID,Utterance_ID\nx,joy,a,0\n",
        r"line 2, column Dialogue_ID: 'a' is no number",
    ),
    (
        "mosei", "label.csv", "video_id,clip_id,text,annotation\nv,,x,Neutral\n",
        r"line 2, column clip_id: empty clip_id",
    ),
    ("iemocap", _EVALUATION_FILE, EVALUATION + "[16.0 - 1\n", r"line 9: .*is torn"),
    (
        "iemocap", _EVALUATION_FILE, "[1.0 - 2.0]\tfoo\tneu\t[1, 1, 1]\n",
        r"line 1: 'foo' is not the name of a turn",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "message"), TORN)
def test_torn_rows_are_named(read: Read, name: str, file: str, content: str, message: str) -> None:
    """What is wrong with a row is said with its file and line."""
    with pytest.raises(BadInput, match=message):
        read(name, {file: content})


def test_unknown_labels_are_named(read: Read, tmp_path: Path) -> None:
    """A label the corpus does not have is refused with file, line and column, unless --classes names it."""
    changes: Files = {"label-disdim.csv": "name,discrete\ns1,hapy\n"}
    store = Store.create(tmp_path / "store")
    with pytest.raises(
        BadInput, match=r"label-disdim.csv, line 2, column discrete: label 'hapy' is not one of"
    ):
        ingest(store, read("mer2024", changes))
    assert store.commit == 0
    taken = read("mer2024", changes, classes=("hapy", "sad"))
    assert ingest(store, taken).layer_added


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    """Another layout's name, no folder, an empty one: each has its own remedy."""
    with pytest.raises(UnknownName, match="no layout named 'mer2025'; did you mean 'mer2024'"):
        read_layout("mer2025", tmp_path)
    for name in LAYOUTS:
        with pytest.raises(BadInput, match=r"holds no clips|has none of|has no label.csv|has no Session1"):
            read_layout(name, tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        read_layout("meld", tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no field named 'txt'; did you mean 'text'"):
        read_layout("meld", tmp_path, columns={"txt": "x"})
