from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip
from mer_plugins.audio.pitch import track_pitch
from mer_plugins.audio.prosody import Prosody, deltas, functionals
from mer_plugins.contract import Options
from mer_plugins.samples import voice, write_wav

RATE = 16_000


def harmonic(f0: np.ndarray, partials: int = 15) -> np.ndarray:
    """Return a tone whose fundamental follows `f0 [n]`."""
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return (sum(np.sin(k * phase) / k for k in range(1, partials)) / 8).astype(np.float32)


@pytest.mark.parametrize("f0", [70.0, 110.0, 155.5, 220.0, 333.3, 480.0])
def test_steady_pitch(f0: float) -> None:
    """A steady tone's F0 is right to 0.5 % in every frame, voiced throughout."""
    found, strength = track_pitch(harmonic(np.full(RATE, f0)), RATE, 160)
    assert found.shape == strength.shape == (101,)
    inner = found[4:-4]
    assert np.abs(inner / f0 - 1).max() < 0.005
    assert strength[4:-4].min() > 0.9


def test_gliding_pitch_in_noise() -> None:
    """A glide over an octave at 10 dB SNR is followed without octave jumps."""
    f0 = np.geomspace(120, 260, 2 * RATE)
    tone = harmonic(f0)
    noise = np.random.default_rng(0).standard_normal(len(tone)).astype(np.float32)
    found, _ = track_pitch(tone + noise * tone.std() * 10 ** (-10 / 20), RATE, 160)
    off = np.abs(np.log2(found[4:-4] / f0[::160][4 : len(found) - 4]))
    assert off.max() < 0.1


def test_missing_fundamental() -> None:
    """Pitch is the period, also where the fundamental itself is filtered out, as on a telephone."""
    t = np.arange(RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(4, 16)).astype(np.float32)
    found, _ = track_pitch(tone, RATE, 160)
    assert np.median(found) == pytest.approx(120, rel=0.005)


def test_noise_and_silence_are_unvoiced() -> None:
    """White noise and digital silence have no pitch."""
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) / 10
    assert not track_pitch(noise, RATE, 160)[0].any()
    assert not track_pitch(np.zeros(RATE, np.float32), RATE, 160)[0].any()


def test_voicing_follows_pauses() -> None:
    """Half a second of tone between silences is voiced there and nowhere else."""
    sound = np.zeros(2 * RATE, np.float32)
    sound[RATE // 2 : RATE] = harmonic(np.full(RATE // 2, 180.0))
    voiced = track_pitch(sound, RATE, 160)[0] > 0
    assert voiced[53:97].all()
    assert not voiced[:47].any()
    assert not voiced[103:].any()


def test_long_recordings_are_the_same_in_chunks() -> None:
    """Analysis in chunks, for bounded memory, has no seams."""
    sound = harmonic(np.full(21 * RATE, 150.0), 4)
    found, _ = track_pitch(sound, RATE, 160)
    assert len(found) == 2101
    assert np.abs(found[4:-4] / 150 - 1).max() < 0.005


def test_log_mel_contours_are_the_fields() -> None:
    """Framing, window, power, mel bands and decibels are those of transformers' own spectrogram."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    sound = voice(0.5)
    theirs = spectrogram(
        sound,
        window_function(400, "hann"),
        400,
        160,
        fft_length=512,
        power=2.0,
        pad_mode="constant",
        mel_filters=mel_filter_bank(257, 40, 20, 8000, RATE, norm="slaney", mel_scale="slaney"),
    )
    rows = Prosody(Options(extra={"spectrum": "logmel", "deltas": "0"})).analyse(sound)
    assert rows.shape == (51, 45)
    assert np.allclose(10 ** (rows[: theirs.shape[1], 5:] / 10), theirs.T, rtol=1e-3, atol=1e-6)


def test_cepstra() -> None:
    """The cepstra are scipy's orthonormal DCT of the log-mel bands, without the first."""
    from scipy.fft import dct

    sound = voice(0.5)
    bands = Prosody(Options(extra={"spectrum": "logmel", "deltas": "0"})).analyse(sound)[:, 5:]
    cepstra = Prosody(Options(extra={"deltas": "0"})).analyse(sound)[:, 5:]
    assert np.allclose(cepstra, dct(bands, norm="ortho")[:, 1:14], atol=1e-3)


def test_centroid_and_flatness() -> None:
    """A pure tone's centroid is its frequency; noise is flat, a tone is not, silence is neither."""
    extractor = Prosody(Options(extra={"deltas": "0"}))
    tone = np.sin(2 * np.pi * 1500 * np.arange(RATE) / RATE).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) / 10
    assert np.allclose(extractor.analyse(tone)[5:-5, 3], 1.5, atol=0.01)
    assert np.allclose(extractor.analyse(noise)[5:-5, 3].mean(), 4, atol=0.1)
    assert extractor.analyse(tone)[5:-5, 4].max() < -30
    assert extractor.analyse(noise)[5:-5, 4].min() > -6
    silent = extractor.analyse(np.zeros(RATE, np.float32))
    assert np.allclose(silent[:, 3:5], 0, atol=1e-4)


def test_deltas() -> None:
    """The delta of a ramp is its slope; of a constant, nothing."""
    ramp = np.column_stack([np.arange(20.0), np.full(20, 3.0)]).astype(np.float32)
    slope = deltas(ramp)
    assert np.allclose(slope[2:-2], [1, 0])


def test_rows(tmp_path: Path) -> None:
    """Rows are contours, deltas and delta-deltas, one per 10 ms, the pitch in semitones."""
    path = write_wav(tmp_path / "tone.wav", harmonic(np.full(RATE, 110.0)))
    extractor = Prosody(Options())
    rows = extractor.prepare(Clip(key="a", audio=str(path)))
    assert rows.shape == (101, 54)
    assert np.median(rows[:, 0]) == pytest.approx(24, abs=0.1)  # two octaves above 27.5 Hz
    assert np.allclose(rows[:, 18:36], deltas(rows[:, :18]), atol=1e-5)
    assert np.allclose(rows[:, 36:], deltas(rows[:, 18:36]), atol=1e-5)
    assert extractor.seconds(rows) == pytest.approx(1.0, abs=0.02)


def test_functionals() -> None:
    """Pitch counts over voiced frames only, and voicing's rhythm is counted."""
    rows = np.zeros((100, 18), np.float32)
    rows[20:40, 0] = rows[60:80, 0] = 30
    rows[70:80, 0] = 32
    row = functionals(rows, 18)
    assert row[0] == pytest.approx((30 * 30 + 32 * 10) / 40)
    share, silent, rate, length, spread = row[-5:]
    assert (share, silent) == pytest.approx((0.4, 0.0))
    assert rate == pytest.approx(2.0)
    assert (length, spread) == pytest.approx((0.2, 0.0))


@pytest.mark.parametrize("samples", [1, 100, 161])
def test_very_short_and_silent(samples: int) -> None:
    """A single sample, or nothing but silence, has finite functionals."""
    extractor = Prosody(Options())
    row = extractor.pool(extractor.analyse(np.zeros(samples, np.float32)))
    assert np.isfinite(row).all()
    assert row.shape == extractor.utt_shape


def test_separates_the_emotions_of_real_speech(shared: Path) -> None:
    """In one speaker's real speech, anger is higher and sharper than boredom and sadness."""
    extractor = Prosody(Options())
    wav = shared / "data" / "emodb" / "wav"

    def mean(letter: str) -> np.ndarray:
        files = sorted(wav.glob(f"03*{letter}?.wav"))
        return np.mean(
            [extractor.pool(extractor.prepare(Clip(key="k", audio=str(f)))) for f in files], axis=0
        )

    angry, bored, sad = mean("W"), mean("L"), mean("T")
    centroid = 5 + 2  # after five statistics of pitch, the mean of voicing and of energy
    for calm in (bored, sad):
        assert angry[0] > calm[0] + 4
        assert angry[centroid] > 1.3 * calm[centroid]
