"""Reading a catalogue: what is understood, and that every complaint names file, line and column."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from mer_featurestore import Clip
from mer_featurestore.catalogue import read_catalogue
from mer_featurestore.content import content_hash, duplicates, hash_files
from mer_featurestore.errors import BadInput

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes clips.csv beside a few media files."""
    for name in ("a.wav", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(name.encode())

    def make(text: str | bytes) -> Path:
        path = tmp_path / "clips.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def test_columns_become_fields(write: Write) -> None:
    """Each field is read from its column, paths become absolute, unknown columns are listed."""
    path = write(
        "key,audio_path,video_path,transcript,speaker,dialogue,split,corpus,duration,emotion,take\n"
        "k1,a.wav,b.mp4, Hello there ,sp1,d1,test,mer,2.5,happy,9\n"
    )
    read = read_catalogue(path, hash_media=False)
    folder = path.parent
    assert read.clips == (
        Clip(
            key="k1",
            corpus="mer",
            split="test",
            speaker="sp1",
            group="d1",
            audio=str(folder / "a.wav"),
            video=str(folder / "b.mp4"),
            text="Hello there",
            duration=2.5,
        ),
    )
    assert (read.labels, read.unused) == ({"k1": "happy"}, ("take",))


def test_a_video_without_an_audio_column_gives_both(write: Write) -> None:
    """The audio is the video's own stream, unless an audio column says otherwise (even by being empty)."""
    clip = read_catalogue(write("key,video\nk,b.mp4\n")).clips[0]
    assert clip.audio == clip.video is not None
    clip = read_catalogue(write("key,video,audio\nk,b.mp4,\n")).clips[0]
    assert clip.audio is None


def test_path_is_told_by_its_suffix(write: Write) -> None:
    """Sound files give audio, videos give both, anything else is refused."""
    sound, film = read_catalogue(write("key,path\ns,a.wav\nf,b.mp4\n")).clips
    assert (sound.video, film.audio) == (None, film.video)
    with pytest.raises(BadInput, match=r"line 2, column path: '.xyz' is no known audio or video suffix"):
        read_catalogue(write("key,path\ns,a.xyz\n"))


def test_without_a_split_labels_decide(write: Write) -> None:
    """Labelled clips are of split train, others of unlabeled; an empty cell is no split either."""
    read = read_catalogue(write("key,text,emotion\na,x,sad\nb,y,\n"))
    assert [clip.split for clip in read.clips] == ["train", "unlabeled"]
    read = read_catalogue(write("key,text,emotion,split\na,x,sad,test\nb,y,sad,\n"))
    assert [clip.split for clip in read.clips] == ["test", "train"]


def test_no_text_column_and_an_empty_transcript_differ(write: Write) -> None:
    """None where nothing is said of a transcript, the empty string where it is known to be empty."""
    assert read_catalogue(write("key,path\na,a.wav\n")).clips[0].text is None
    assert read_catalogue(write("key,path,text\na,a.wav,\n")).clips[0].text == ""


def test_columns_of_other_names_are_mapped(write: Write) -> None:
    """`columns` says where a field is; header names match in any letter case."""
    read = read_catalogue(
        write("KEY,Sentence,Who\na,hi,sp\n"), columns={"text": "sentence", "speaker": "Who"}
    )
    assert (read.clips[0].text, read.clips[0].speaker) == ("hi", "sp")


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffkey,text\r\na,"one\r\ntwo"\r\nb,three\r\n\r\n,\r\n',
        'key,text\n\na,"one\ntwo"\n\nb,three\n\n\n',
        'key,text\ra,"one\ntwo"\rb,three',
        'key,text,\na,"one\ntwo",\nb,three,\n',
    ],
    ids=["bom-crlf", "blank-lines", "old-mac", "trailing-delimiter"],
)
def test_files_as_programs_write_them(write: Write, text: str) -> None:
    """Byte order marks, any line ends, quoted newlines, blank lines and trailing delimiters are fine."""
    clips = read_catalogue(write(text)).clips
    assert [clip.key for clip in clips] == ["a", "b"]
    assert clips[0].text is not None
    assert clips[0].text.splitlines() == ["one", "two"]


def test_a_label_knows_its_line_behind_quoted_newlines(write: Write) -> None:
    """Lines are counted in the file, not in rows."""
    read = read_catalogue(write('key,text,emotion\na,"1\n2\n3",sad\n\nb,x,angry\n'))
    assert read.where("b").endswith("clips.csv, line 6, column emotion")


BAD = {
    "empty file": ("", r"clips.csv is empty; its first line must name the columns"),
    "no rows": ("key,text\n", "has a header and no rows"),
    "no key": ("id,text\na,b\n", r"no column key \(it has: id, text\); .*--column key=NAME"),
    "nothing to go by": ("key,emotion\na,sad\n", "none of the columns audio, video, path, text"),
    "twice the key": ("key,text\na,x\nb,y\na,z\n", "line 4, column key: key 'a' is already on line 2"),
    "no key in a row": ("key,text\na,x\n ,y\n", "line 3, column key: empty key"),
    "hostile key": ("key,text\n\"a\x07\",x\n", "line 2, column key: .* has control characters"),
    "long key": (f"key,text\n{'k' * 600},x\n", "line 2, column key: .* more than 512"),
    "missing media": ("key,video\na,b.mp4\nb,x.mp4\nc,y.mp4\n", r"line 3, column video: no .*x.mp4 .and 1"),
    "folder as media": ("key,video\na,.\n", "line 2, column video: no such file"),
    "nul in a path": ("key,video\na,\"x\0y\"\n", "line 2, column video: a path with a zero byte"),
    "long path": (f"key,video\na,{'x' * 5000}\n", "line 2, column video: no such file"),
    "duration": ("key,text,duration\na,x,long\n", "line 2, column duration: 'long' is not a duration"),
    "negative duration": ("key,text,duration\na,x,-1\n", "line 2, column duration: '-1' is not a duration"),
    "endless duration": ("key,text,duration\na,x,inf\n", "line 2, column duration: 'inf' is not a duration"),
    "wrong delimiter": ("key;text\na;b\n", r"line 1: one column only, .* by ';'; pass --delimiter ';'"),
    "tabs": ("key\ttext\na\tb\n", "pass --delimiter tab"),
    "two of a name": ("key,text,text\na,b,c\n", "line 1: two columns are named 'text'"),
    "two for a field": ("key,text,transcript\na,b,c\n", "'text' and 'transcript' are both read as text"),
    "path and video": ("key,path,video\na,a.wav,b.mp4\n", "a column path beside audio or video"),
    "unquoted comma": ("key,text\na,well, no\n", "line 2: 3 cells, the header has 2; put quotes"),
    "short row": ("key,text,split\na,x\n", "line 2: 2 cells, the header has 3; fill the missing"),
    "open quote": ("key,text\na,x\nb,\"never closed\nc,y\n", "line 3: malformed CSV .*; close the quot"),
    "stray quote": ("key,text\na,\"x\"y\n", "line 2: malformed CSV"),
    "latin-1": ("key,text\na,x\nb,caf\xe9\n".encode("latin-1"), "line 3: not UTF-8 .byte 0xe9.; .*latin1"),
    "a spreadsheet": (b"PK\x03\x04\x14\x00\x06\x00", "is a spreadsheet or an archive.*save it as CSV"),
    "utf-16": ("key,text\na,b\n".encode("utf-16"), "is UTF-16; convert it: iconv"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_place(write: Write, case: str) -> None:
    """One line naming the file, the line, the column and the remedy."""
    text, message = BAD[case]
    with pytest.raises(BadInput, match=message) as caught:
        read_catalogue(write(text))
    assert "clips.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is said to be."""
    with pytest.raises(BadInput, match="no such file"):
        read_catalogue(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="is a folder"):
        read_catalogue(tmp_path)


def test_a_column_that_is_not_there_gets_a_suggestion(write: Write) -> None:
    """A mapping to a column, or of a field, that does not exist is corrected."""
    with pytest.raises(BadInput, match="no column 'sentense'; did you mean 'sentence'"):
        read_catalogue(write("key,sentence\na,b\n"), columns={"text": "sentense"})
    with pytest.raises(BadInput, match="no field named 'txt'; did you mean 'text'"):
        read_catalogue(write("key,sentence\na,b\n"), columns={"txt": "sentence"})


def test_missing_media_can_be_allowed(write: Write) -> None:
    """Clips whose files are not there keep the path and have no content hash."""
    clip = read_catalogue(write("key,video\na,x.mp4\n"), allow_missing=True).clips[0]
    assert clip.video is not None
    assert clip.content_hash == ""


def test_media_root_is_where_paths_start(write: Write, tmp_path: Path) -> None:
    """Relative paths start at media_root, absolute ones stay."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.wav").touch()
    path = write(f"key,path\na,d.wav\nb,{tmp_path / 'a.wav'}\n")
    clips = read_catalogue(path, media_root=tmp_path / "deep").clips
    assert [clip.audio for clip in clips] == [str(tmp_path / "deep" / "d.wav"), str(tmp_path / "a.wav")]


def test_content_is_bytes_and_words_not_names(write: Write, tmp_path: Path) -> None:
    """Copies under other names are found; other words or other bytes are no copies."""
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "b.mp4").read_bytes())
    read = read_catalogue(
        write("key,video,text\nb,b.mp4,hi\ncopy,copy.mp4,hi\nother,c.mp4,hi\nwords,b.mp4,ho\n")
    )
    groups = duplicates({clip.key: clip for clip in read.clips})
    assert [[clip.key for clip in group] for group in groups] == [["b", "copy"]]


def test_content_hash_is_as_written_down() -> None:
    """The definition does not drift: stores of other years must agree. Nothing at all has no hash."""
    digest = hashlib.sha256(b"x").hexdigest()
    expected = hashlib.sha256(f"mer-clip-1\nmedia {digest}\ntext hé".encode()).hexdigest()
    assert content_hash([digest, digest], "hé") == expected
    assert content_hash([], "") == content_hash([], None) == ""
    assert content_hash([digest], "") == content_hash([digest], None)


def test_each_file_is_read_once_and_progress_told(tmp_path: Path) -> None:
    """Progress ends at the number of distinct files; a file that is not there has no digest."""
    (tmp_path / "x").write_bytes(b"x")
    calls: list[tuple[int, int]] = []
    digests = hash_files(
        [str(tmp_path / "x")] * 3 + [str(tmp_path / "y")], progress=lambda *c: calls.append(c)
    )
    assert digests == {str(tmp_path / "x"): hashlib.sha256(b"x").hexdigest(), str(tmp_path / "y"): None}
    assert calls == [(1, 2), (2, 2)]


def test_tens_of_thousands_of_rows_take_a_second(write: Write) -> None:
    """Large catalogues are no effort (a generous limit: a loaded machine must not fail the suite)."""
    import time

    path = write("key,text,split\n" + "".join(f"k{i},some words {i},train\n" for i in range(30_000)))
    started = time.perf_counter()
    read = read_catalogue(path)
    assert len(read.clips) == 30_000
    assert time.perf_counter() - started < 10


def test_unknown_durations_are_nan(write: Write) -> None:
    """Seconds where given, NaN where not."""
    clips = read_catalogue(write("key,text,duration\na,x,1.5\nb,y,\n")).clips
    assert clips[0].duration == 1.5
    assert math.isnan(clips[1].duration)
