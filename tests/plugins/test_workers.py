"""Several processes extract what one would."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mer_cli.fs import main
from mer_featurestore import Clip, Store
from mer_plugins.contract import Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.pipeline import How, Request, plan
from mer_plugins.samples import voice, write_wav
from mer_plugins.workers import extract_in_processes
from support.extraction import check_as_by_one_process
from support.tiny import MAKERS

BOTH = ("utt", "frame")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of nine voices, one of them broken."""
    store = Store.create(tmp_path / "store")
    clips = [
        Clip(key=f"k{k}", audio=str(write_wav(tmp_path / f"{k}.wav", voice(0.3 + 0.07 * k))))
        for k in range(9)
    ]
    store.clips.add(clips)
    (tmp_path / "4.wav").write_bytes(b"")
    return store


def _under_way(store: Store) -> subprocess.Popen[str]:
    """Start a slow extraction by two processes, and return it when it has made some commits."""
    words = ["extract", "--plugin", "slow", "--procs", "2", "--commit-every", "1", "--store", store.url]
    command = [sys.executable, "-c", "from mer_cli.fs import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = store.journal.head()
    while store.journal.head() < before + 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_two_processes_are_as_one(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, quarantine and counts are those of a single process, to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "model").mkdir()
    MAKERS["hubert-large"](tmp_path / "model")
    options = Options(model=str(tmp_path / "model"), device="cpu")
    request = Request(plugin="hubert-large", options=options, levels=BOTH)
    told: list[tuple[int, int, int]] = []
    how = How(commit_every=2)
    report = extract_in_processes(store, request, ("cpu", "cpu"), how, lambda _, *counts: told.append(counts))
    assert (report.planned, report.done, list(report.failed)) == (9, 8, ["k4"])
    assert told[-1] == (8, 1, 9)
    assert report.media_seconds == pytest.approx(sum(0.3 + 0.07 * k for k in range(9) if k != 4), abs=1e-3)
    assert extract_in_processes(store, request, ("cpu", "cpu")).planned == 0
    check_as_by_one_process(store, request, tmp_path)
    assert sum("features" in str(commit) for commit in store.log()) >= 2


def test_a_plan_that_was_looked_at_is_kept_to(store: Store) -> None:
    """With a plan given, it is that plan which is dealt out, and nothing is planned again."""
    request = Request(plugin="prosody")
    planned = plan(store, replace(request, keys=("k0", "k7")))
    report = extract_in_processes(store, request, ("cpu", "cpu"), planned=planned)
    assert (report.planned, report.done) == (2, 2)
    assert sorted(store.features["prosody-UTT"].keys()) == ["k0", "k7"]


def test_an_error_in_one_stops_all(install: Callable[..., None], tmp_path: Path) -> None:
    """What stops one process stops the others and reaches the caller."""
    install("odd")
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:02d}", text=str(n)) for n in range(20))
    with pytest.raises(ClipError, match="clip k13 failed: ZeroDivisionError: not this one"):
        extract_in_processes(store, Request(plugin="picky"), ("cpu", "cpu"), How(strict=True))


def test_a_process_that_dies(install: Callable[..., None], tmp_path: Path) -> None:
    """A process that just ends is an error; the other's share is kept, the next run does the rest."""
    install("odd")
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:02d}", text=str(n)) for n in range(20))
    request = Request(plugin="deadly")
    with pytest.raises(PluginError, match="worker process 1 ended with code 7; what was committed is kept"):
        extract_in_processes(store, request, ("cpu", "cpu"))
    assert sorted(store.features["deadly-UTT"].keys()) == [f"k{n:02d}" for n in range(0, 20, 2)]
    assert len(plan(store, request).todo) == 10


def test_asked_to_stop(install: Callable[..., None], tmp_path: Path) -> None:
    """SIGTERM to the parent alone stops the children, which commit what is whole; exit code 130."""
    install("odd")
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:03d}", text=str(n)) for n in range(400))
    process = _under_way(store)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted; what was done is committed" in err
    assert "Traceback" not in err
    store.refresh()
    done = store.features["slow-UTT"].keys()
    assert f"{len(done)} clips into slow-UTT" in out
    assert {int(key[1:]) % 2 for key in done} == {0, 1}


def test_the_parent_is_killed(install: Callable[..., None], tmp_path: Path) -> None:
    """Killed with SIGKILL, the parent leaves no process behind that goes on; they end without a traceback."""
    install("odd")
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:03d}", text=str(n)) for n in range(400))
    process = _under_way(store)
    process.kill()
    _, err = process.communicate(timeout=60)  # until the last process that could write there has ended
    assert "Traceback" not in err
    store.refresh()
    assert 4 <= len(store.features["slow-UTT"]) < 400


def test_one_way_of_sharing(store: Store) -> None:
    """`--procs` and `--devices` together are refused."""
    words = ["extract", "--plugin", "prosody", "--procs", "2", "--devices", "cpu", "--store", store.url]
    assert "say one of them" in CliRunner().invoke(main, words).stderr
