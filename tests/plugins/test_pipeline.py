import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, Store
from mer_featurestore.errors import FingerprintMismatch, MerError, StoreError, UnknownName
from mer_plugins.ahead import prepare_ahead
from mer_plugins.contract import Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.pipeline import ExtractReport, How, Request, extract, plan
from mer_plugins.plan import quarantined
from mer_plugins.samples import voice, write_wav

BOTH = ("utt", "frame")


def run(store: Store, plugin: str, how: How | None = None, **request: object):
    """Plan and extract."""
    return extract(store, plan(store, Request(plugin=plugin, **request)), how)


@pytest.fixture
def odd(install: Callable[..., None], tmp_path: Path) -> Store:
    """Return a store of twenty numbered texts, with the odd plugin installed."""
    install("odd")
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:02d}", text=str(n), split="a" if n < 5 else "b") for n in range(20))
    return store


def voices(folder: Path, count: int) -> Store:
    """Make a store of short voices."""
    store = Store.create(folder / "store")
    clips = []
    for k in range(count):
        path = write_wav(folder / f"{k}.wav", voice(0.2 + 0.05 * (k % 7), 100 + 5 * k))
        clips.append(Clip(key=f"k{k:03d}", audio=str(path)))
    store.clips.add(clips)
    return store


def contents(store: Store) -> dict[str, dict[str, bytes]]:
    """Return every feature of a store."""
    return {
        name: {key: space[key].tobytes() for key in sorted(space.keys())}
        for name, space in store.features.items()
    }


def test_both_levels_in_one_pass(odd: Store) -> None:
    """One pass fills both spaces in one commit; the utterance's row is the pooled frames."""
    before = odd.commit
    report = run(odd, "plain", levels=BOTH)
    assert (report.planned, report.done, report.failed) == (20, 20, {})
    assert report.spaces == ("plain-UTT", "plain-FRA")
    assert odd.commit == before + 1
    utt, frames = (odd.features[name] for name in report.spaces)
    assert np.array_equal(frames["k07"], [[1, 7]] * 3)
    assert np.array_equal(utt["k07"], [[1, 7]])
    assert (utt.spec.dtype, frames.spec.dtype) == ("float32", "float16")
    assert utt.spec.made_by == {"plugin": "plain", "version": 1, "kind": "Plain", "pooling": "mean"}
    assert "pooling" not in frames.spec.made_by


def test_second_run_has_nothing_to_do(odd: Store) -> None:
    """What is there is not done again, nor is the extractor loaded."""
    run(odd, "plain")
    commit = odd.commit
    report = run(odd, "plain")
    assert (report.planned, report.skipped, report.done) == (0, 20, 0)
    assert "load" not in report.seconds
    assert odd.commit == commit


def test_only_what_is_missing_is_done(odd: Store) -> None:
    """New clips, and levels asked for later, are added without touching the rest."""
    run(odd, "plain", split="a")
    assert len(odd.features["plain-UTT"]) == 5
    report = run(odd, "plain", levels=BOTH, keys=("k03", "k04", "k05", "k06"))
    assert report.done == 4
    assert sorted(odd.features["plain-FRA"].keys()) == ["k03", "k04", "k05", "k06"]
    assert sorted(odd.features["plain-UTT"].keys()) == [f"k{n:02d}" for n in range(7)]
    assert run(odd, "plain").planned == 13


def test_names(odd: Store) -> None:
    """`--as` names the spaces; a suffix typed along is not doubled."""
    assert run(odd, "plain", name="mine", split="a").spaces == ("mine-UTT",)
    assert run(odd, "plain", name="mine-UTT").planned == 15


def test_frames_averaged_down(store: Store) -> None:
    """`frame_hz` averages frames and says so in their fingerprint; utterances are those of all frames."""
    run(store, "prosody", levels=BOTH)
    run(store, "prosody", name="few", levels=BOTH, frame_hz=20.0)
    every, few = store.features["prosody-FRA"], store.features["few-FRA"]
    assert few.spec.made_by == {**every.spec.made_by, "frame_hz": 20.0}
    for key in sorted(every.keys()):
        assert len(few[key]) == math.ceil((len(every[key]) - 0.5) / 5)
        assert np.allclose(few[key][1], every[key][5:10].mean(axis=0, dtype=np.float32), rtol=2e-3, atol=2e-3)
    utts = store.features["prosody-UTT"], store.features["few-UTT"]
    assert utts[0].fingerprint == utts[1].fingerprint
    assert plan(store, Request(plugin="prosody", levels=BOTH, name="n", frame_hz=20.0)).estimate() == {
        "n-UTT": 4 * 167 * 4,
        "n-FRA": pytest.approx(few.lengths().sum() * 54 * 2, rel=0.1),
    }
    for wrong, message in (
        ({"frame_hz": 101.0}, "gives 100 rows a second"),
        ({"frame_hz": 0.0}, "at most 100"),
    ):
        with pytest.raises(PluginError, match=message):
            plan(store, Request(plugin="prosody", levels=BOTH, **wrong))
    with pytest.raises(PluginError, match="only frames have a rate"):
        plan(store, Request(plugin="prosody", frame_hz=20.0))
    with pytest.raises(PluginError, match="no fixed number of rows a second"):
        plan(store, Request(plugin="char-ngrams", levels=BOTH, frame_hz=20.0))


def test_memory_running_out_halves_the_batch(odd: Store) -> None:
    """Out of memory makes batches smaller for the rest of the run, and nothing is lost."""
    report = run(odd, "greedy", How(batch=8))
    assert report.done == 20
    assert report.batch == 2
    assert np.array_equal(odd.features["greedy-UTT"]["k19"], [[2, 19]])


def test_one_bad_clip_does_not_take_its_batch_along(odd: Store) -> None:
    """An unexpected error in a batch is traced to its clip, which is quarantined with the error's name."""
    report = run(odd, "picky", levels=BOTH)
    assert report.done == 19
    assert report.failed == {"k13": "ZeroDivisionError: not this one"}
    assert quarantined(odd) == dict.fromkeys(("picky-UTT", "picky-FRA"), report.failed)
    assert quarantined(odd, "picky-FRA") == {"picky-FRA": report.failed}
    again = run(odd, "picky", levels=BOTH)
    assert (again.planned, again.left_alone) == (0, 1)
    assert run(odd, "picky", levels=BOTH, retry_failed=True).failed == report.failed


def test_quarantine_of_what(odd: Store) -> None:
    """Asking for the quarantine of a space that does not exist is an error."""
    run(odd, "picky")
    with pytest.raises(UnknownName, match="did you mean 'picky-UTT'"):
        quarantined(odd, "piky-UTT")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("hopeless", "hopeless fails on every clip: AttributeError: no such thing: 1"),
        ("sloppy", r"declares rows of shape \(2,\) and gave an array \(1, 3\)"),
        ("forgetful", "returned 7 arrays for 8 clips"),
    ],
)
def test_a_faulty_plugin_stops_the_run(odd: Store, plugin: str, message: str) -> None:
    """A fault of the plugin is not blamed on the clips: nothing is stored or quarantined."""
    with pytest.raises(PluginError, match=message):
        run(odd, plugin)
    assert not quarantined(odd)
    assert not odd.features


def test_values_that_cannot_be_stored(odd: Store) -> None:
    """NaN and what half precision cannot hold are quarantined, saying which."""
    failed = run(odd, "wild", levels=("frame",)).failed
    assert set(failed) == {"k03", "k05"}
    assert "1 of 6 values are NaN or infinite" in failed["k03"]
    assert "do not fit float16" in failed["k05"]
    assert set(run(odd, "wild", name="wide", levels=("frame",), dtype="float32").failed) == {"k03"}


def test_clips_without_rows(odd: Store) -> None:
    """A clip without rows has frames of length 0, but cannot be pooled."""
    assert run(odd, "silent", levels=("frame",)).done == 20
    assert len(odd.features["silent-FRA"]["k02"]) == 0
    report = run(odd, "silent", levels=("utt",))
    assert len(report.failed) == 10
    assert set(report.failed.values()) == {"the extractor gave no rows to pool"}


def test_strict_stops_and_keeps_what_is_done(odd: Store) -> None:
    """`--strict` stops at a failure with its reason; what was encoded is committed, nothing quarantined."""
    with pytest.raises(
        ClipError, match="clip k13 failed: ZeroDivisionError: not this one; leave --strict out"
    ):
        run(odd, "picky", How(strict=True, batch=1))
    assert 1 <= len(odd.features["picky-UTT"]) < 20
    assert not quarantined(odd)


def test_other_settings_are_refused_before_any_work(store: Store) -> None:
    """Appending to a space of another configuration shows the fields that differ."""
    run(store, "prosody")
    with pytest.raises(FingerprintMismatch, match=r"made_by.spectrum: \"mfcc\" \| \"logmel\""):
        plan(store, Request(plugin="prosody", options=Options(extra={"spectrum": "logmel"})))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"split": "tset"}, "no split named 'tset'; did you mean 'test'"),
        ({"keys": ("audio9",)}, "no clip named 'audio9'; did you mean"),
        ({"keys": ()}, "no clips given to run prosody on; select others with --split or --keys"),
        ({"keys": ("text1",)}, "none of the 1 selected clips has audio"),
        ({"levels": ("uttt",)}, "no level named 'uttt'; did you mean 'utt'"),
    ],
)
def test_empty_and_impossible_selections(store: Store, request_: dict, message: str) -> None:
    """Selecting nothing, or what does not exist, is an error with the remedy."""
    with pytest.raises(MerError, match=message):
        plan(store, Request(plugin="prosody", **request_))


def test_an_empty_store(tmp_path: Path) -> None:
    """A store without clips says how to add some."""
    with pytest.raises(StoreError, match="has no clips; add some with: mer-fs ingest"):
        plan(Store.create(tmp_path / "s"), Request(plugin="prosody"))


def test_clips_without_the_modality_are_left_out(store: Store) -> None:
    """A clip that has nothing of the modality is neither done nor quarantined."""
    planned = plan(store, Request(plugin="prosody"))
    assert (planned.selected, planned.without, len(planned.todo)) == (12, 8, 4)
    assert not extract(store, planned).failed


def test_estimates(store: Store) -> None:
    """A dry run's bytes come from the files' lengths, close to what is stored."""
    planned = plan(store, Request(plugin="prosody", levels=BOTH))
    estimate = planned.estimate()
    extract(store, planned)
    for name, size in estimate.items():
        space = store.features[name]
        bytes_ = int(space.lengths().sum()) * math.prod(space.spec.row_shape) * space.dtype.itemsize
        assert size == pytest.approx(bytes_, rel=0.1)


def test_broken_media_are_quarantined_with_reasons(tmp_path: Path) -> None:
    """Broken files do not stop the rest, and come back with --retry-failed when mended."""
    good = write_wav(tmp_path / "good.wav", voice(0.3))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(good.read_bytes()[:3000])
    store = Store.create(tmp_path / "store")
    store.clips.add([Clip(key="good", audio=str(good)), Clip(key="bad", audio=str(bad))])
    report = run(store, "prosody")
    assert report.done == 1
    assert "is cut off: " in report.failed["bad"]
    bad.write_bytes(good.read_bytes())
    assert run(store, "prosody").planned == 0
    assert run(store, "prosody", retry_failed=True).done == 1
    assert not quarantined(store)
    assert np.array_equal(*(store.features["prosody-UTT"][key] for key in ("good", "bad")))


def test_how_it_is_run_changes_nothing(tmp_path: Path) -> None:
    """Batch size, workers, commits, backend and the order of clips leave every bit of a feature the same."""
    first = voices(tmp_path, 12)
    run(first, "prosody", levels=BOTH)
    second = Store.create(tmp_path / "other")
    second.clips.add(reversed(list(first.clips.values())))
    how = How(batch=1, workers=3, commit_every=2, backend="hdf5", codec="gzip")
    run(second, "prosody", how, levels=BOTH)
    assert len(list(second.log())) > 5
    assert contents(first) == contents(second)


def test_no_more_waits_than_a_commit_holds(tmp_path: Path) -> None:
    """With a commit every 4 clips, 12 clips make 3 commits: a kill never costs more than was asked for."""
    store = voices(tmp_path, 12)
    before = store.commit
    run(store, "prosody", How(commit_every=4))
    assert store.commit == before + 3
    assert [len(fragment.key_list()) for fragment in store.features["prosody-UTT"].fragments] == [4, 4, 4]


def test_report_and_progress(tmp_path: Path) -> None:
    """Progress comes stage by stage, and the report says where the time went."""
    store = voices(tmp_path, 6)
    told: list[tuple[str, int, int, int]] = []
    planned = plan(store, Request(plugin="prosody"))
    report = extract(store, planned, How(batch=2), lambda *state: told.append(state))
    assert told[0] == ("loading", 0, 0, 6)
    assert told[-1] == ("extracting", 6, 0, 6)
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)
    assert report.media_seconds == pytest.approx(sum(0.2 + 0.05 * k for k in range(6)), abs=0.1)
    assert report.clips_per_second == pytest.approx(6 / report.seconds["total"], rel=0.5)
    assert report.realtime_factor > 0
    document = report.as_json()
    assert document["done"] == 6
    assert document["bottleneck"] == report.bottleneck


def test_bottleneck() -> None:
    """The bottleneck is the stage the main thread spent most time in; waiting means decoding is slow."""
    report = ExtractReport(spaces=(), planned=1, skipped=0, left_alone=0)
    for slowest, name in (("wait", "decode"), ("encode", "encode"), ("write", "write")):
        report.seconds = {
            "decode": 99.0,
            "wait": 1.0,
            "encode": 1.0,
            "write": 1.0,
            "load": 50.0,
            slowest: 3.0,
        }
        assert report.bottleneck == name


def test_decoding_ahead_is_bounded_in_memory() -> None:
    """What is decoded and not yet taken stays within the budget, however slow the encoder."""
    taken = prepared = most = 0
    lock = threading.Lock()

    def prepare(clip: Clip) -> np.ndarray:
        nonlocal prepared, most
        with lock:
            prepared += 1
            most = max(most, prepared - taken)
        return np.zeros(1 << 20, np.uint8)

    clips = [Clip(key=str(k)) for k in range(200)]
    keys = []
    for item in prepare_ahead(prepare, clips, workers=2, memory=20 << 20):
        keys.append(item.clip.key)
        time.sleep(0.001)
        with lock:
            taken += 1
    assert keys == [clip.key for clip in clips]
    assert 3 <= most <= 24


def test_leaving_early_stops_the_threads() -> None:
    """Closing the decoder leaves no thread behind and prepares no more."""
    seen: list[str] = []
    clips = [Clip(key=str(k)) for k in range(10_000)]
    ahead = prepare_ahead(lambda clip: seen.append(clip.key), clips, workers=3)
    next(ahead)
    ahead.close()
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count < 10_000
    assert not [t for t in threading.enumerate() if t.name.startswith("mer-decode")]


def start(store: Store) -> subprocess.Popen[str]:
    """Start an extraction in a process of its own that commits after every clip."""
    words = [sys.executable, "-c", "from mer_cli.fs import main; main()", "extract", "--plugin", "prosody"]
    words += ["--level", "utt,frame"]
    words += ["--commit-every", "1", "--batch", "1", "--workers", "1", "--store", store.url]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_commit(store: Store, process: subprocess.Popen[str], number: int) -> None:
    """Wait until the process has made a commit."""
    end = time.monotonic() + 60
    while store.journal.head() < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


KILLED = """
import os, random, signal, sys, time
import librosa
from mer_featurestore import Store
from mer_plugins.audio.prosody import Prosody
from mer_plugins.contract import Options
from mer_plugins.pipeline import How, Request, extract, plan

Prosody(Options()).load()  # imports what the children need, in a process that starts no thread
random.seed(1)
for _ in range(10):
    store = Store.open(sys.argv[1])
    before = store.journal.head()
    child = os.fork()
    if not child:
        planned = plan(store, Request(plugin="prosody", levels=("utt", "frame")))
        extract(store, planned, How(batch=1, workers=2, commit_every=1))
        os._exit(0)
    while store.journal.head() < before + 2:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], store.journal.head() - before)
"""


def test_killed_ten_times_and_resumed_is_as_never_interrupted(tmp_path: Path) -> None:
    """After ten kill -9 in the middle and a resume, every feature is the same to the last bit."""
    store = voices(tmp_path, 80)
    words = [sys.executable, "-W", "error", "-c", KILLED, store.url]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    fates = [line.split() for line in done.stdout.splitlines()]
    assert [int(status) for status, _ in fates] == [signal.SIGKILL] * 10
    store.refresh()
    keys = store.features["prosody-UTT"].keys()
    assert 20 <= len(keys) == sum(int(commits) for _, commits in fates) < 80
    assert keys == store.features["prosody-FRA"].keys()
    report = run(store, "prosody", levels=BOTH)
    assert report.skipped == len(keys)
    whole = Store.create(tmp_path / "whole")
    whole.clips.add(store.clips.values())
    run(whole, "prosody", levels=BOTH)
    assert contents(store) == contents(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM commit what is whole, say so, and exit with 130."""
    store = voices(tmp_path, 60)
    process = start(store)
    wait_for_commit(store, process, 4)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted; what was done is committed" in err
    assert "Traceback" not in err
    store.refresh()
    done = len(store.features["prosody-UTT"])
    assert 3 <= done < 60
    assert f"{done} clips into prosody-UTT, prosody-FRA" in out
    assert run(store, "prosody", levels=BOTH).done == 60 - done


def test_signals_are_given_back(odd: Store) -> None:
    """After an extraction the process's own signal handlers are in place again."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(odd, "plain")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_works_outside_the_main_thread(odd: Store) -> None:
    """A notebook or server may extract in a thread, where signals cannot be caught."""
    reports = []
    thread = threading.Thread(target=lambda: reports.append(run(odd, "plain")))
    thread.start()
    thread.join()
    assert reports[0].done == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(odd: Store) -> None:
    """A store that cannot be written says so."""
    folder = Path(odd.url)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    with pytest.raises((StoreError, PermissionError)):
        run(odd, "plain")
