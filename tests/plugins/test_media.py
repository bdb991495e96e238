import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from mer_plugins.errors import ClipError
from mer_plugins.media import duration, iter_frames, read_audio, read_frames
from mer_plugins.samples import pictures, voice, write_film, write_wav

CODECS = [
    ("pcm_u8", "wav", 16_000),
    ("pcm_s16le", "wav", 8_000),
    ("pcm_s24le", "wav", 44_100),
    ("pcm_f32le", "wav", 16_000),
    ("pcm_f64le", "wav", 48_000),
    ("flac", "flac", 22_050),
    ("aac", "m4a", 44_100),
    ("aac", "ts", 48_000),
    ("libmp3lame", "mp3", 44_100),
    ("libopus", "ogg", 48_000),
    ("ac3", "mkv", 48_000),
    ("wmav2", "wma", 44_100),
    ("alac", "mov", 44_100),
]


def write_audio(path: Path, codec: str, rate: int, seconds: float, channels: int = 2) -> Path:
    """Encode a 440 Hz tone of amplitude 0.25; the second channel is silent."""
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    samples = np.zeros((channels, len(tone)), np.float32)
    samples[0] = tone
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        if "pcm" not in codec:
            stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=stream.layout.name)
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, stream.layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def open_files() -> int:
    """Count this process's open files."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(("codec", "suffix", "rate"), CODECS)
def test_any_codec_becomes_16_khz_mono(tmp_path: Path, codec: str, suffix: str, rate: int) -> None:
    """Whatever the container, codec, sample format and rate, a tone comes back: pitch, level and length."""
    sound = read_audio(write_audio(tmp_path / f"tone.{suffix}", codec, rate, 1.5))
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert 1.45 < len(sound) / 16_000 < 1.65
    middle = sound[8_000:16_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(spectrum.argmax() * 2 - 440) <= 2
    # The mean of a tone of amplitude 0.25 and silence.
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.125, rel=0.06)


def test_samples_are_kept_exactly(tmp_path: Path) -> None:
    """A 16 kHz 16-bit file comes back sample by sample."""
    sound = voice(0.7)
    read = read_audio(write_wav(tmp_path / "voice.wav", sound))
    assert np.array_equal(read, (sound * 32767).round().astype(np.float32) / 32768)


def test_resampling_is_soxrs(tmp_path: Path) -> None:
    """Resampling is one soxr call over all samples, not a chain of chunks."""
    import soxr

    path = write_wav(tmp_path / "voice.wav", voice(0.7, rate=22_050), 22_050)
    plain = read_audio(path, rate=22_050)
    assert len(plain) == round(0.7 * 22_050)
    assert np.array_equal(read_audio(path), soxr.resample(plain, 22_050, 16_000))


@pytest.mark.parametrize("codec", [("pcm_s16le", "wav"), ("flac", "flac"), ("aac", "mkv"), ("aac", "m4a")])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_torn_audio_is_refused(tmp_path: Path, codec: tuple[str, str], share: float) -> None:
    """A file cut off in the middle is an error that says so, never a shorter clip."""
    path = write_audio(tmp_path / f"whole.{codec[1]}", codec[0], 44_100, 2.0)
    torn = tmp_path / f"torn.{codec[1]}"
    torn.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ClipError, match=r"cut off|damaged|no samples"):
        read_audio(torn)


def test_damaged_audio_is_refused(tmp_path: Path) -> None:
    """Packets overwritten by noise are an error that counts them."""
    path = write_audio(tmp_path / "whole.flac", "flac", 44_100, 3.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"damaged|cut off"):
        read_audio(path)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    """No file, no bytes, no media, no stream of the kind: each has a message of its own."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    film = write_film(tmp_path / "film.mp4", pictures(3))
    wav = write_wav(tmp_path / "voice.wav", voice(0.1))
    for name, reason in (
        ("absent.mp4", "there is no file"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "no media file"),
        (film.name, "no audio stream"),
    ):
        with pytest.raises(ClipError, match=reason):
            read_audio(tmp_path / name)
    with pytest.raises(ClipError, match="no video stream"):
        read_frames(wav, every=1)
    with pytest.raises(ClipError, match="cannot be opened"):
        read_audio(tmp_path)


def test_no_samples(tmp_path: Path) -> None:
    """A header without a sample is an error; one sample is a clip."""
    with pytest.raises(ClipError, match="no samples"):
        read_audio(write_wav(tmp_path / "none.wav", np.zeros(0, np.float32)))
    assert read_audio(write_wav(tmp_path / "one.wav", np.full(1, 0.5, np.float32))).shape == (1,)


def test_frames_by_number(tmp_path: Path) -> None:
    """Frames come by number, in any order and with repeats; one that is not there is an error."""
    film = write_film(tmp_path / "film.mp4", pictures(20))
    every = read_frames(film, every=1)
    assert every.shape == (20, 96, 128, 3)
    assert every.dtype == np.uint8
    assert np.array_equal(read_frames(film, indices=[7, 0, 7, 19]), every[[7, 0, 7, 19]])
    assert np.array_equal(read_frames(film, every=6), every[::6])
    source = np.stack(list(pictures(20)))
    assert np.abs(every.astype(int) - source).mean() < 8  # lossy, but the same pictures in RGB order
    with pytest.raises(ClipError, match="has 20 frames, there is no frame 20"):
        read_frames(film, indices=[3, 20])


def test_frames_by_time_with_variable_rate(tmp_path: Path) -> None:
    """The frame for a time is the one on the screen then, however unevenly frames come."""
    times = [0.0, 0.04, 0.5, 0.54, 1.2, 1.24]
    film = write_film(tmp_path / "film.mkv", pictures(6), times=times)
    shown = [p.number for p in iter_frames(film, fps=10)]
    assert shown[:13] == [0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 4]
    chosen = iter_frames(film, times=[0.0, 0.039, 0.041, 0.499, 0.501, 1.19])
    assert [p.number for p in chosen] == [0, 0, 1, 1, 2, 3]
    assert [p.time for p in iter_frames(film, every=1)] == pytest.approx(times, abs=2e-3)
    with pytest.raises(ClipError, match="there is no frame at 9"):
        read_frames(film, times=[0.1, 9.0])


def test_rotated_video_is_turned_upright(tmp_path: Path) -> None:
    """A phone's note that its pictures lie on their side is obeyed."""
    film = write_film(tmp_path / "film.mp4", pictures(2))
    upright = read_frames(film, every=1)
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 44  # behind version, times, ids, layer and volume
    quarter = [0, 1, 0, -1, 0, 0, 0, 0, 0x4000]  # 90 degrees clockwise
    scaled = [v * 65536 for v in quarter]
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in scaled)
    film.write_bytes(data)
    turned = read_frames(film, every=1)
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


def test_torn_video_is_refused(tmp_path: Path) -> None:
    """A video whose frames stop early is an error when its end is reached."""
    film = write_film(tmp_path / "film.mp4", pictures(40))
    film.rename(tmp_path / "slow.mp4")
    with (
        av.open(str(tmp_path / "slow.mp4")) as source,
        av.open(str(film), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = film.read_bytes()
    film.write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(ClipError, match=r"cut off|damaged"):
        read_frames(film, every=1)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    """A picture attached to a song is not taken for a video stream."""
    song = write_audio(tmp_path / "song.mp3", "libmp3lame", 44_100, 0.5)
    tagged = tmp_path / "tagged.mp3"
    with av.open(str(song)) as source, av.open(str(tagged), "w") as target:
        audio = target.add_stream_from_template(source.streams.audio[0])
        art = target.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 128, 96, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(next(pictures(1)), format="rgb24").reformat(format="yuvj420p")
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = audio
                target.mux(packet)
        target.mux(art.encode(picture))
        target.mux(art.encode(None))
    assert len(read_audio(tagged)) > 7_000
    with pytest.raises(ClipError, match="no video stream"):
        read_frames(tagged, every=1)


def test_threads_and_open_files(tmp_path: Path) -> None:
    """Files are read side by side in threads alike, and none stays open, not even after a failure."""
    wavs = [write_wav(tmp_path / f"{k}.wav", voice(0.2, 100 + k)) for k in range(8)]
    film = write_film(tmp_path / "film.mp4", pictures(10))
    (tmp_path / "bad.mp4").write_bytes(b"x" * 1000)
    alone = [read_audio(path) for path in wavs]
    before, threads = open_files(), threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read_audio, wavs * 4))
    assert all(np.array_equal(a, alone[k % 8]) for k, a in enumerate(together))
    for _ in range(20):
        next(iter_frames(film, every=1))
        with pytest.raises(ClipError):
            read_audio(tmp_path / "bad.mp4")
    assert open_files() <= before
    assert threading.active_count() <= threads


class TestRealFiles:
    """Media as found in the world."""

    @pytest.fixture
    def media(self, shared: Path) -> Path:
        """Return the folder of the real files."""
        return shared / "data" / "media"

    @pytest.mark.parametrize(
        ("name", "seconds"),
        [
            ("obama_speech.mp4", 8.7467),
            ("WolfgangLanger_Pexels.mp4", 19.6907),
            ("single_face.mp4", 2.4185),
            ("face_noface.mov", 3.9656),
        ],
    )
    def test_audio(self, media: Path, name: str, seconds: float) -> None:
        """AAC, MP3 in MP4, stereo and mono, late starts: every decoded sample is there."""
        sound = read_audio(media / name)
        assert len(sound) / 16_000 == pytest.approx(seconds, abs=1e-3)
        assert np.isfinite(sound).all()

    def test_late_audio(self, media: Path) -> None:
        """Audio that starts 2.43 s after the video is given as it is, or with that silence in front."""
        plain, placed = (read_audio(media / "face_noface.mov", from_zero=zero) for zero in (False, True))
        silence = len(placed) - len(plain)
        assert silence / 16_000 == pytest.approx(2.43, abs=0.001)
        assert not placed[:silence].any()
        assert np.array_equal(placed[silence:], plain)

    def test_no_audio(self, media: Path) -> None:
        """A video without sound says so."""
        with pytest.raises(ClipError, match="no audio stream"):
            read_audio(media / "carphone_pristine.mp4")

    @pytest.mark.parametrize(
        ("name", "count", "shape"),
        [
            ("obama_speech.mp4", 105, (240, 320, 3)),
            ("single_face.mp4", 72, (360, 640, 3)),
            ("face_noface.mov", 169, (540, 960, 3)),
            ("carphone_pristine.mp4", 120, (144, 176, 3)),
        ],
    )
    def test_frame_count(self, media: Path, name: str, count: int, shape: tuple[int, ...]) -> None:
        """H.264 and HEVC give every frame once, at its size, at rising times."""
        got = [(p.number, p.time, p.rgb.shape) for p in iter_frames(media / name, every=1)]
        assert [number for number, _, _ in got] == list(range(count))
        assert {size for _, _, size in got} == {shape}
        assert all(a < b for (_, a, _), (_, b, _) in pairwise(got))

    def test_variable_frame_rate(self, media: Path) -> None:
        """Sampling a real variable-rate file by time takes the frame on the screen at each tick."""
        starts = [p.time for p in iter_frames(media / "face_noface.mov", every=1)]
        gaps = np.diff(starts)
        assert gaps.max() > 2 * gaps.min()
        sampled = [p.number for p in iter_frames(media / "face_noface.mov", fps=4)]
        expected = [int(np.searchsorted(starts, k / 4 + 1e-6, side="right")) - 1 for k in range(len(sampled))]
        assert sampled == expected
        assert len(sampled) == 26

    def test_composite(self, shared: Path) -> None:
        """A short AAC clip keeps the padding of its last frame: 45,056 samples, 32,694 at 16 kHz."""
        clip = shared / "data" / "composite" / "videos" / "cp_0001.mp4"
        assert len(read_audio(clip, rate=22_050)) == 45_056
        assert len(read_audio(clip)) == 32_694
        assert duration(clip) == pytest.approx(2.0)

    @pytest.mark.parametrize("name", ["broken_truncated", "broken_empty", "broken_noaudio"])
    def test_broken(self, shared: Path, name: str) -> None:
        """The broken clips are refused with a reason."""
        with pytest.raises(ClipError, match=r"cut off|is empty|no audio stream"):
            read_audio(shared / "data" / "composite" / "videos" / f"{name}.mp4")
