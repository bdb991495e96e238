"""The synthetic corpus: real files, disjoint speakers, ambiguous channels, nothing left to chance."""

import csv
import wave
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mer_plugins.errors import PluginError
from mer_plugins.synthetic import EMOTIONS, acting, split_sizes, write_corpus
from mer_plugins.synthetic.casting import FLAWS, Part, cast
from mer_plugins.synthetic.face import draw_head, film
from mer_plugins.synthetic.looks import cast_look
from mer_plugins.synthetic.sentences import write_line
from mer_plugins.synthetic.voice import RATE, Throat, speak

SIZES = {"train": 6, "unlabeled": 6, "test": 6}
TINY = {"train": 2, "unlabeled": 1, "test": 1, "broken": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small corpus with one clip of every flaw."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, **SIZES, broken=len(FLAWS))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flawed() -> dict[str, Part]:
    """Return flaw -> the clip of the small corpus that has it."""
    return {part.flaw: part for part in cast(0, SIZES, len(FLAWS)) if part.flaw}


def row_of(corpus: Path, flaw: str) -> dict[str, str]:
    """Return the catalogue row of the clip with a flaw."""
    return next(row for row in rows(corpus / "clips.csv") if row["key"] == flawed()[flaw].key)


def sound_of(path: Path) -> NDArray[np.float64]:
    """Read a WAV as floats within ±1."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(-1), "<i2") / 32768


def pitch_of(sound: NDArray[np.float64]) -> float:
    """Return the median F0 (Hz) of the loud half, by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 640)[::160] * np.hanning(640)
    power = (frames**2).sum(1)
    spectra = np.abs(np.fft.rfft(frames[power > np.median(power)], 2048)) ** 2
    lags = np.fft.irfft(spectra)[:, RATE // 500 : RATE // 70]
    return float(np.median(RATE / (lags.argmax(1) + RATE // 500)))


def test_catalogue_lists_every_clip_with_files_that_exist(corpus: Path) -> None:
    """Each row has the columns an ingest needs, and its media lie beside the catalogue."""
    listed = rows(corpus / "clips.csv")
    assert list(listed[0]) == ["key", "audio", "video", "text", "speaker", "split", "emotion"]
    assert len({row["key"] for row in listed}) == len(listed) == sum(SIZES.values()) + len(FLAWS)
    assert all((corpus / row["audio"]).is_file() and (corpus / row["video"]).is_file() for row in listed)


def test_labels_are_given_for_train_and_kept_back_for_the_rest(corpus: Path) -> None:
    """Only train rows have an emotion; truth.csv has exactly the others."""
    listed, truth = rows(corpus / "clips.csv"), rows(corpus / "truth.csv")
    assert all((row["emotion"] in EMOTIONS) == (row["split"] == "train") for row in listed)
    assert {row["key"] for row in truth} == {row["key"] for row in listed if row["split"] != "train"}
    assert all(row["emotion"] in EMOTIONS for row in truth)


def test_no_speaker_is_in_two_splits() -> None:
    """Folds and test scores would be flattered otherwise."""
    splits: dict[str, set[str]] = {}
    for part in cast(3, split_sizes(450), 6):
        splits.setdefault(part.speaker.name, set()).add(part.split)
    assert all(len(found) == 1 for found in splits.values())
    assert min(Counter(next(iter(found)) for found in splits.values()).values()) >= 5


def test_sad_and_worried_are_rarer_in_train() -> None:
    """The shift that priors have to be estimated for is there, and every emotion occurs everywhere."""
    parts = cast(0, split_sizes(450), 0)
    share = {
        split: np.mean([p.emotion in {"sad", "worried"} for p in parts if p.split == split])
        for split in ("train", "unlabeled", "test")
    }
    assert share["train"] < 0.2 < 0.3 < min(share["unlabeled"], share["test"])
    assert len({(p.split, p.emotion) for p in parts}) == 3 * len(EMOTIONS)


def test_default_sizes_are_those_of_450_clips() -> None:
    """`split_sizes` and the defaults of `write_corpus` do not drift apart."""
    defaults = write_corpus.__kwdefaults__
    assert split_sizes(450) == {name: defaults[name] for name in SIZES}
    assert sum(split_sizes(61).values()) == 61


def test_sound_and_picture_of_a_clip_belong_together(corpus: Path) -> None:
    """A sound clip is 16 kHz speech without clipping; its video is 128 pixels, with sound, and as long."""
    broken = {part.key for part in flawed().values()}
    for row in [row for row in rows(corpus / "clips.csv") if row["key"] not in broken][:8]:
        sound = sound_of(corpus / row["audio"])
        assert 0.7 < len(sound) / RATE < 4
        assert 0.05 < np.abs(sound).max() < 1
        with av.open(str(corpus / row["video"])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert container.streams.audio
        assert frames[0].shape == (128, 128, 3)
        assert len(frames) / 10 == pytest.approx(len(sound) / RATE, abs=0.1)


def test_truncated_video_cannot_be_opened(corpus: Path) -> None:
    """It is cut off before its index."""
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(corpus / row_of(corpus, "truncated video")["video"]))


def test_empty_sound_has_no_samples(corpus: Path) -> None:
    """It is a well-formed WAV of nothing."""
    assert len(sound_of(corpus / row_of(corpus, "empty sound")["audio"])) == 0


def test_missing_stream_and_words_show_in_the_catalogue(corpus: Path) -> None:
    """One row names a silent video as its audio, one has no transcript."""
    silent = row_of(corpus, "no audio stream")
    assert silent["audio"] == silent["video"]
    with av.open(str(corpus / silent["video"])) as container:
        assert not container.streams.audio
    assert row_of(corpus, "empty transcript")["text"] == ""
    assert sum(row["text"] == "" for row in rows(corpus / "clips.csv")) == 1


def test_faces_are_found_where_there_are_any(corpus: Path) -> None:
    """OpenCV's stock detector sees most drawn faces, and none in the empty room."""
    detector = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def seen(image: NDArray[np.uint8]) -> bool:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return len(detector.detectMultiScale(grey, 1.1, 3, minSize=(40, 40))) > 0

    found = []
    for i in range(8):
        rng = np.random.default_rng(i)
        face = acting.plain_face(EMOTIONS[i % 6])
        found += [seen(image) for image in list(film(cast_look(rng), face, np.zeros(200), 1.0, rng))[::3]]
    assert np.mean(found) > 0.8
    with av.open(str(corpus / row_of(corpus, "no face")["video"])) as container:
        assert not any(seen(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0))


@pytest.mark.parametrize("emotion", EMOTIONS[1:])
def test_expression_is_plain_at_full_intensity(emotion: str) -> None:
    """On a face, every emotion is drawn visibly unlike every other, and half of it lies in between."""
    look = cast_look(np.random.default_rng(5))
    drawn = {e: draw_head(look, acting.plain_face(e)).astype(float) for e in EMOTIONS}
    others = [np.abs(drawn[emotion] - drawn[e]).mean() for e in EMOTIONS if e != emotion]
    assert min(others) > 0.5
    half = draw_head(look, acting.plain_face(emotion, 0.5)).astype(float)
    assert np.abs(half - drawn["neutral"]).mean() < np.abs(drawn[emotion] - drawn["neutral"]).mean()


def test_voices_follow_the_emotion() -> None:
    """Said by one speaker, angry is louder and quicker than sad, and surprise is higher than sad."""
    throat = Throat(pitch=120, span=2, tract=1, tempo=0, breath=0.05)
    said = {
        e: speak("We go to the shop today.", acting.plain_voice(e), throat, np.random.default_rng(0))[0]
        for e in EMOTIONS
    }
    level = {e: 10 * np.log10(np.mean(sound**2)) for e, sound in said.items()}
    assert level["angry"] > level["neutral"] > level["sad"]
    assert len(said["angry"]) < len(said["neutral"]) < len(said["sad"])
    assert pitch_of(said["surprise"]) > pitch_of(said["neutral"]) * 1.15
    assert pitch_of(said["neutral"]) > pitch_of(said["sad"])


def test_no_channel_settles_the_emotion_by_itself() -> None:
    """Nearest prototype on the acted values is right often, and far from always, in voice and in face."""
    rng = np.random.default_rng(0)
    for act, table, spread in (
        (acting.act_voice, acting._VOICE, acting._VOICE_SPREAD),
        (acting.act_face, acting._FACE, acting._FACE_SPREAD),
    ):
        right = []
        for i, emotion in enumerate(EMOTIONS * 100):
            shown = act(emotion, rng)
            values = np.array([getattr(shown, name) for name in shown.__slots__])
            nearest = (((table - values) / spread) ** 2).sum(1).argmin()
            right.append(nearest == i % len(EMOTIONS))
        assert 0.5 < np.mean(right) < 0.9


def test_sentences_tell_some_emotions_and_not_others() -> None:
    """Neutral clips say what any clip may say, and some of each emotion's lines are as neutral as that."""
    rng = np.random.default_rng(0)
    said = {e: {write_line(e, rng) for _ in range(400)} for e in EMOTIONS}
    for emotion in EMOTIONS[1:]:
        shared = len(said[emotion] & said["neutral"]) / len(said[emotion])
        assert 0.05 < shared < 0.6


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two corpora of one seed are equal file by file; another seed says and shows something else."""
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for folder, seed in ((one, 7), (two, 7), (other, 8)):
        write_corpus(folder, seed=seed, **TINY)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    media = [name for name in files if name.suffix in {".wav", ".mp4"}]
    assert len(media) == 8
    assert all((one / name).read_bytes() != (other / name).read_bytes() for name in media)


def test_interrupted_corpus_is_completed(tmp_path: Path) -> None:
    """What is there is kept, what is missing is written, and the result is that of one call."""
    write_corpus(tmp_path, **TINY)
    gone, kept = tmp_path / "video" / "clip0002.mp4", tmp_path / "video" / "clip0001.mp4"
    before, stamp = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    (tmp_path / "clips.csv").unlink()
    told: list[tuple[int, int]] = []
    assert write_corpus(tmp_path, **TINY, progress=lambda done, total: told.append((done, total))).is_file()
    assert gone.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    assert told == [(n, 4) for n in range(1, 5)]


def test_other_corpus_in_the_folder_is_not_mixed_in(tmp_path: Path) -> None:
    """Another seed in the same folder is refused before anything is written."""
    write_corpus(tmp_path, **TINY)
    before = (tmp_path / "clips.csv").read_bytes()
    with pytest.raises(PluginError, match="other settings; choose another folder"):
        write_corpus(tmp_path, **TINY, seed=1)
    assert (tmp_path / "clips.csv").read_bytes() == before


def test_negative_size_and_missing_opencv_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are said before a folder is made."""
    with pytest.raises(PluginError, match="negative"):
        write_corpus(tmp_path / "x", train=-1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(PluginError, match=r"mer-fs\[video\]"):
        write_corpus(tmp_path / "x", **TINY)
    assert not (tmp_path / "x").exists()
