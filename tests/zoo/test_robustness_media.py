"""Noise in sounds and films, and a run judged by what is extracted from them."""

from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, Store
from mer_plugins.contract import Options
from mer_plugins.media import iter_frames, read_audio, read_frames
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import pictures, voice, write_film, write_wav
from mer_zoo.errors import ZooError
from mer_zoo.experiments import FIGURE
from mer_zoo.media_noise import noisy_film, noisy_sound
from mer_zoo.robustness_media import robustness_media
from mer_zoo.settings import Settings
from mer_zoo.train import train

VIDEO = Options(extra={"face": "center", "descriptor": "dct"})


def test_a_sound_gets_noise_of_that_power(tmp_path: Path) -> None:
    """The copy is as long as the original and what was added has the power asked for, if any."""
    sound = voice(1.0)
    source = str(write_wav(tmp_path / "a.wav", sound))
    noisy = read_audio(noisy_sound(source, tmp_path / "b.wav", 10, 0))
    assert len(noisy) == len(sound)
    added = noisy - sound
    assert 10 * np.log10(np.mean(sound**2) / np.mean(added**2)) == pytest.approx(10, abs=0.2)
    clean = read_audio(noisy_sound(source, tmp_path / "c.wav", np.inf, 0))
    np.testing.assert_allclose(clean, read_audio(source), atol=1e-4)
    loud = read_audio(noisy_sound(source, tmp_path / "d.wav", -30, 0))
    assert 0.9 < np.abs(loud).max() <= 1


def test_a_film_gets_noise_and_keeps_its_times(tmp_path: Path) -> None:
    """Without noise frames are the originals, pixel by pixel, at their times; with it, as asked."""
    times = [0.0, 0.04, 0.1, 0.3, 0.35]
    source = str(write_film(tmp_path / "a.mp4", pictures(5), times=times))
    copy = noisy_film(source, tmp_path / "b.mkv", np.inf, 0)
    before = read_frames(source, every=1).astype(float)
    np.testing.assert_array_equal(read_frames(copy, every=1), before)
    assert [p.time for p in iter_frames(copy, every=1)] == pytest.approx(times, abs=2e-3)
    noisy = read_frames(noisy_film(source, tmp_path / "c.mkv", 20, 0), every=1)
    assert np.std(noisy - before) == pytest.approx(np.std(before) / 10, rel=0.1)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of low and high voices over moving pictures, with features of both and the run `a`."""
    folder = tmp_path_factory.mktemp("media")
    store, rng = Store.create(folder / "store"), np.random.default_rng(0)
    film = str(write_film(folder / "film.mp4", pictures(4)))
    clips, label = [], {}
    for i in range(18):
        split, key = ("train" if i < 12 else "test"), f"k{i:02d}"
        pitch = (110 if i % 2 else 260) * (1 + 0.05 * rng.standard_normal())
        sound = str(write_wav(folder / f"{key}.wav", voice(0.4, pitch)))
        clips.append(Clip(key=key, split=split, audio=sound, video=None if i == 13 else film))
        label[key] = "low" if i % 2 else "high"
    store.clips.add(clips)
    store.labels.add(LabelLayer.human("gold", ("high", "low"), label))
    extract(store, plan(store, Request(plugin="prosody")))
    extract(store, plan(store, Request(plugin="face-pixels", options=VIDEO)))
    train(store, "mlp", name="a", folds=2, params={"hidden": 8}, settings=Settings(epochs=15, lr=0.02))
    return store


def test_noise_in_the_sound(heard: Store) -> None:
    """Copies without noise decide as stored features do; the record is all that the store gets."""
    before = heard.commit
    found = robustness_media(heard, "a", Request(plugin="prosody"), snrs=(0.0,))
    assert heard.commit == before + 1
    names = ["as stored", "copied without noise", "audio, noise at 0 dB in the media"]
    assert [line.name for line in found.lines] == names
    assert found.lines[1].waf == found.lines[0].waf
    bundle = heard.runs[found.record]
    assert bundle.attrs["kind"] == "robustness-media"
    assert FIGURE in bundle.files


def test_noise_in_the_pictures(heard: Store) -> None:
    """A clip without pictures stays without, and the rest is extracted as it was."""
    found = robustness_media(heard, "a", Request(plugin="face-pixels", options=VIDEO), snrs=(10.0,))
    assert found.lines[1].waf == found.lines[0].waf
    assert found.lines[2].name == "video, noise at 10 dB in the media"


def test_another_extraction_is_refused(heard: Store) -> None:
    """Noise would be confounded with another way of extracting; text has no noise to add."""
    other = Request(plugin="prosody", name="other", options=Options(extra={"deltas": "0"}))
    with pytest.raises(ZooError, match="this extraction makes other-UTT"):
        robustness_media(heard, "a", other)
