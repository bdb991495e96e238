"""Damage to sounds and films, and a run judged by what is extracted from them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_plugins.contract import Options
from mer_plugins.media import RATE, iter_frames, read_audio, read_frames
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import pictures, voice, write_film, write_wav
from mer_zoo.errors import ZooError
from mer_zoo.experiments import FIGURE
from mer_zoo.media_damage import Blank, Noise, damaged_film, damaged_sound
from mer_zoo.robustness import robustness
from mer_zoo.robustness_media import robustness_media
from mer_zoo.settings import Settings
from mer_zoo.train import train

VIDEO = Options(extra={"face": "center", "descriptor": "dct"})


def test_a_sound_gets_noise_of_that_power(tmp_path: Path) -> None:
    """The copy is as long as the original and what was added has the power asked for, if any."""
    sound = voice(1.0)
    source = str(write_wav(tmp_path / "a.wav", sound))
    noisy = read_audio(damaged_sound(source, tmp_path / "b.wav", Noise(10), 0))
    assert len(noisy) == len(sound)
    added = noisy - sound
    assert 10 * np.log10(np.mean(sound**2) / np.mean(added**2)) == pytest.approx(10, abs=0.2)
    clean = read_audio(damaged_sound(source, tmp_path / "c.wav", Noise(np.inf), 0))
    np.testing.assert_allclose(clean, read_audio(source), atol=1e-4)
    loud = read_audio(damaged_sound(source, tmp_path / "d.wav", Noise(-30), 0))
    assert 0.9 < np.abs(loud).max() <= 1


def test_a_film_gets_noise_and_keeps_its_times(tmp_path: Path) -> None:
    """Without noise frames are the originals, pixel by pixel, at their times; with it, as asked."""
    times = [0.0, 0.04, 0.1, 0.3, 0.35]
    source = str(write_film(tmp_path / "a.mp4", pictures(5), times=times))
    copy = damaged_film(source, tmp_path / "b.mkv", Noise(np.inf), 0)
    before = read_frames(source, every=1).astype(float)
    np.testing.assert_array_equal(read_frames(copy, every=1), before)
    assert [p.time for p in iter_frames(copy, every=1)] == pytest.approx(times, abs=2e-3)
    noisy = read_frames(damaged_film(source, tmp_path / "c.mkv", Noise(20), 0), every=1)
    assert np.std(noisy - before) == pytest.approx(np.std(before) / 10, rel=0.1)


def test_a_sound_is_silent_in_stretches(tmp_path: Path) -> None:
    """The share asked for is exactly zero, in so many pieces, and the rest is the original."""
    sound = 0.1 + 0.5 * np.random.default_rng(0).random(RATE).astype(np.float32)
    source = str(write_wav(tmp_path / "a.wav", sound))
    before = read_audio(source)
    for seed in range(5):
        after = read_audio(damaged_sound(source, tmp_path / "b.wav", Blank(0.3, stretches=3), seed))
        silent = after == 0
        assert silent.mean() == pytest.approx(0.3, abs=1e-3)
        np.testing.assert_allclose(after[~silent], before[~silent], atol=1e-4)
        edges = np.diff(np.concatenate([[0], silent.astype(int), [0]]))
        assert (edges == 1).sum() == 3
    assert not read_audio(damaged_sound(source, tmp_path / "c.wav", Blank(1.0), 0)).any()


def test_places_are_drawn_anew_for_each_seed(tmp_path: Path) -> None:
    """The same seed blanks the same; over seeds each part of a sound is blanked as often as it should be."""
    source = str(write_wav(tmp_path / "a.wav", np.full(800, 0.5, np.float32)))

    def silent(seed: int) -> NDArray[np.bool_]:
        return read_audio(damaged_sound(source, tmp_path / "b.wav", Blank(0.5, stretches=8), seed)) == 0

    np.testing.assert_array_equal(silent(1), silent(1))
    often = np.mean([silent(seed) for seed in range(200)], axis=0)
    assert 0.3 < often[100:-100].min() <= often[100:-100].max() < 0.7


def test_a_film_is_black_in_stretches(tmp_path: Path) -> None:
    """Pictures are black or untouched, for the share of the time asked; a patch blackens a part."""
    source = str(write_film(tmp_path / "a.mp4", (np.maximum(p, 40) for p in pictures(20))))
    before = read_frames(source, every=1)
    for seed in range(3):
        after = read_frames(damaged_film(source, tmp_path / "b.mkv", Blank(0.5, stretches=2), seed), every=1)
        black = ~after.any(axis=(1, 2, 3))
        assert abs(int(black.sum()) - 10) <= 1
        np.testing.assert_array_equal(after[~black], before[~black])
    dark = damaged_film(source, tmp_path / "c.mkv", Blank(1.0), 0)
    assert not read_frames(dark, every=1).any()
    assert [p.time for p in iter_frames(dark, every=1)] == pytest.approx(
        [p.time for p in iter_frames(source, every=1)], abs=2e-3
    )
    patched = read_frames(damaged_film(source, tmp_path / "d.mkv", Blank(1.0, patch=0.25), 0), every=1)
    hidden = ~patched.any(axis=3)
    assert (hidden == hidden[0]).all()
    assert hidden[0].mean() == pytest.approx(0.25, abs=0.05)
    np.testing.assert_array_equal(patched[~hidden], before[~hidden])


@pytest.mark.parametrize("given", [{"share": 0.0}, {"share": 1.2}, {"share": 0.5, "stretches": 0}])
def test_shares_out_of_range_are_refused(given: dict[str, float]) -> None:
    """Nothing, more than all, and no stretch: told before any file is written."""
    with pytest.raises(ZooError, match="stretches"):
        Blank(**given)  # type: ignore[arg-type]  # what a user can type


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


def test_a_damaged_sound(heard: Store) -> None:
    """Unchanged copies decide as stored features do; the record is all that the store gets."""
    before = heard.commit
    found = robustness_media(heard, "a", Request(plugin="prosody"), snrs=(0.0,), masked=(0.5,))
    assert heard.commit == before + 1
    assert [line.name for line in found.lines] == [
        "as stored", "copied unchanged", "audio, noise at 0 dB in the media",
        "audio, silent for 50% of the time", "audio, silent throughout", "audio, removed",
    ]  # fmt: skip
    assert found.lines[1].waf == found.lines[0].waf
    bundle = heard.runs[found.record]
    assert bundle.attrs["kind"] == "robustness-media"
    assert bundle.parents == ("runs/a", "labels/gold")
    assert FIGURE in bundle.files
    document = bundle.json("lines.json")
    asked = {name: document[name] for name in ("snrs", "masked", "stretches", "patch", "seed")}
    assert asked == {"snrs": [0.0], "masked": [0.5], "stretches": 1, "patch": 1.0, "seed": 0}


def test_a_stream_that_is_gone_is_a_feature_that_is_gone(heard: Store) -> None:
    """Without a stream nothing is extracted, and the run decides as when the features are taken away."""
    media = robustness_media(heard, "a", Request(plugin="prosody"), snrs=(), masked=())
    taken = robustness(heard, "a", snrs=(), seeds=1)
    gone = {line.name: line.waf for line in taken.lines}["audio, removed"]
    assert {line.name: line.waf for line in media.lines}["audio, removed"] == gone
    without = {line.name: line.facts["clips without"] for line in media.lines}
    assert (without["as stored"], without["copied unchanged"], without["audio, removed"]) == (0, 0, 6)


def test_damaged_pictures(heard: Store) -> None:
    """A clip without pictures stays without, and the rest is extracted as it was."""
    request = Request(plugin="face-pixels", options=VIDEO)
    found = robustness_media(heard, "a", request, snrs=(10.0,), masked=(0.5,), patch=0.25, stretches=2)
    assert found.lines[1].waf == found.lines[0].waf
    assert [line.name for line in found.lines[2:]] == [
        "video, noise at 10 dB in the media", "video, 25% of the picture black for 50% of the time",
        "video, black throughout", "video, removed",
    ]  # fmt: skip
    assert [line.facts["clips without"] for line in found.lines] == [1, 1, 1, 1, 1, 6]


def test_another_extraction_is_refused(heard: Store) -> None:
    """Noise would be confounded with another way of extracting; text has no noise to add."""
    other = Request(plugin="prosody", name="other", options=Options(extra={"deltas": "0"}))
    with pytest.raises(ZooError, match="this extraction makes other-UTT"):
        robustness_media(heard, "a", other)


def with_space(heard: Store, name: str, **made_by: object) -> Store:
    """Return the store with one more space of sounds, and a run of its name that reads it."""
    store, space = Store.open(heard.url), f"{name}-UTT"
    spec = SpaceSpec(name=space, modality="audio", level="utt", row_shape=(2,), made_by=made_by)
    rng = np.random.default_rng(0)
    with store.features.writer(spec) as writer:
        for key in sorted(store.clips):
            writer.add(key, rng.normal(size=(1, 2)).astype(np.float32))
    train(store, "mlp", name=name, features=[space], folds=2, settings=Settings(epochs=1))
    return store


def test_an_extractor_that_made_nothing_here_is_refused_before_its_checkpoint_is_looked_for(
    heard: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub is asked for an encoder that cannot have made what the run reads; text is refused likewise."""
    monkeypatch.setattr("mer_zoo.robustness_media.plan", lambda *_: pytest.fail("planned"))
    with pytest.raises(
        ZooError, match=r"reads prosody-UTT \(prosody\), .* hubert-large made none .* --plugin"
    ):
        robustness_media(heard, "a", Request(plugin="hubert-large"))
    with pytest.raises(ZooError, match="char-ngrams reads text"):
        robustness_media(heard, "a", Request(plugin="char-ngrams"))


def test_another_checkpoint_than_the_one_that_was_used_is_refused_before_it_is_looked_for(
    heard: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --model an extractor would take its own checkpoint, though the features come from another."""
    store = with_space(heard, "tiny", plugin="hubert-large", checkpoint={"model": "tiny-hubert"})
    monkeypatch.setattr("mer_zoo.robustness_media.plan", lambda *_: pytest.fail("planned"))
    with pytest.raises(
        ZooError, match=r"would take facebook/hubert-large.*tiny-hubert; name that checkpoint"
    ):
        robustness_media(store, "tiny", Request(plugin="hubert-large"))


def test_derived_features_are_refused_with_the_space_they_come_from(heard: Store) -> None:
    """What was computed from features is not made anew from media; the message says what to train on."""
    store = with_space(heard, "small", operation="pool", source="prosody-UTT", source_fingerprint="0" * 64)
    with pytest.raises(ZooError, match=r"train a run on prosody-UTT instead of small-UTT"):
        robustness_media(store, "small", Request(plugin="prosody"))


@pytest.mark.parametrize("snr", [float("nan"), float("inf")])
def test_a_ratio_that_is_no_number_is_refused(heard: Store, snr: float) -> None:
    """Noise without a finite ratio to the signal would be told as a line of its own."""
    for experiment in (
        lambda: robustness(heard, "a", snrs=(snr,)),
        lambda: robustness_media(heard, "a", Request(plugin="prosody"), snrs=(snr,)),
    ):
        with pytest.raises(ZooError, match="give a number"):
            experiment()
