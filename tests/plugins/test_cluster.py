"""A Ray cluster extracts what one process would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mer_cli.fs import main
from mer_featurestore import Clip, Store
from mer_plugins import host
from mer_plugins.cluster import deal, extract_on_ray
from mer_plugins.contract import Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.pipeline import How, Request, plan
from mer_plugins.samples import voice, write_wav
from support.extraction import check_as_by_one_process
from support.tiny import MAKERS

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
ODD = Path(__file__).parent / "third_party" / "odd"
BOTH = ("utt", "frame")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a cluster of two cores whose machines have the odd plugins; return its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ODD), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.syspath_prepend(str(ODD))
        host.reload()
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        yield context.address_info["gcs_address"]
        ray.shutdown()
    sys.modules.pop("mer_odd", None)
    host.reload()


@pytest.fixture
def texts(tmp_path: Path) -> Store:
    """Return a store of 100 texts, which are their numbers."""
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"k{n:03d}", text=str(n)) for n in range(100))
    return store


def test_a_cluster_is_as_one_process(address: str, tmp_path: Path) -> None:
    """What is stored and counted is as by a single process, to the last bit; the next run finds nothing."""
    store = Store.create(tmp_path / "store")
    voices = [(f"k{k:02d}", write_wav(tmp_path / f"{k}.wav", voice(0.3 + 0.01 * k))) for k in range(20)]
    store.clips.add([Clip(key=key, audio=str(path)) for key, path in voices])
    (tmp_path / "4.wav").write_bytes(b"")
    (tmp_path / "model").mkdir()
    MAKERS["hubert-large"](tmp_path / "model")
    options = Options(model=str(tmp_path / "model"))
    request = Request(plugin="hubert-large", options=options, levels=BOTH)
    told: list[tuple[int, int, int]] = []
    report = extract_on_ray(store, request, address, progress=lambda _, *counts: told.append(counts))
    assert (report.planned, report.done, list(report.failed)) == (20, 19, ["k04"])
    assert (told[0], told[-1]) == ((0, 0, 20), (19, 1, 20))
    assert report.seconds["total"] > 0
    assert extract_on_ray(store, request, address).planned == 0
    check_as_by_one_process(store, request, tmp_path)


def test_keys_are_dealt_out_once(texts: Store, address: str) -> None:
    """Every missing key goes to one task, in shares that several tasks a slot make."""
    planned = plan(texts, Request(plugin="plain"))
    shares = deal(planned, 1)
    assert [len(share) for share in shares] == [25] * 4
    assert [key for share in shares for key in share] == [clip.key for clip in planned.todo]
    assert [len(share) for share in deal(planned, 50)] == [16] * 6 + [4]


def test_an_error_in_one_stops_all(texts: Store, address: str) -> None:
    """What stops one task reaches the caller as it was; what others committed is kept."""
    with pytest.raises(ClipError, match="clip k013 failed: ZeroDivisionError: not this one"):
        extract_on_ray(texts, Request(plugin="picky"), address, How(strict=True))


def test_a_task_that_always_dies(texts: Store, address: str) -> None:
    """A task whose process ends again and again is an error; what the others did is kept."""
    with pytest.raises(PluginError, match="a task of the Ray cluster failed: ") as caught:
        extract_on_ray(texts, Request(plugin="deadly"), address)
    assert "the same command does the rest" in str(caught.value.remedy)
    done = set(texts.features["deadly-UTT"].keys())
    assert {f"k{n:03d}" for n in range(16)} <= done
    assert "k019" not in done


def test_a_process_that_dies_is_replaced(texts: Store, address: str, tmp_path: Path) -> None:
    """A death costs nothing but time: the task is run again and does what is missing, each key once."""
    once = tmp_path / "once"
    request = Request(plugin="deadly", options=Options(extra={"once": str(once)}))
    report = extract_on_ray(texts, request, address, How(commit_every=2))
    assert once.exists()
    assert sorted(texts.features["deadly-UTT"].keys()) == sorted(texts.clips)
    # k016 and k017 were committed by the process that died, which told nobody.
    assert (report.done, report.failed, report.interrupted) == (98, {}, False)


def test_what_a_cluster_must_have(texts: Store, address: str) -> None:
    """A GPU that no machine has is said at once."""
    options = Options(device="cuda")
    with pytest.raises(PluginError, match="no machine of the Ray cluster has a GPU"):
        extract_on_ray(texts, Request(plugin="plain", options=options), address)


def test_from_the_command_line(texts: Store, address: str) -> None:
    """`--ray ADDRESS` joins a cluster, a store's path may be relative; 130 when asked to stop."""
    place = Path(texts.url)
    words = ["--ray", address, "--commit-every", "2", "--store", place.name, "--json"]
    code = "from mer_cli.fs import main; main()"

    def start(plugin: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, "extract", "--plugin", plugin, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=place.parent)

    out, err = start("plain").communicate(timeout=120)
    assert json.loads(out)["done"] == 100, err
    before = Store.open(place).journal.head()
    process = start("slow")
    while Store.open(place).journal.head() < before + 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["interrupted"] is True
    assert 0 < report["done"] < 100
    assert report["done"] == len(Store.open(place).features["slow-UTT"].keys())


def test_no_cluster(texts: Store) -> None:
    """Where no cluster answers, and with two ways of sharing, one line says what to do."""
    base = ["extract", "--plugin", "char-ngrams", "--store", texts.url]
    both = CliRunner().invoke(main, [*base, "--ray", "auto", "--procs", "2"])
    assert (both.exit_code, "say one of them" in both.stderr) == (2, True)
    none = CliRunner().invoke(main, [*base, "--ray", "127.0.0.1:9"])
    assert (none.exit_code, none.stderr.count("\n")) == (1, 1)
    assert "no Ray cluster at '127.0.0.1:9'" in none.stderr
    assert "start one with `ray start --head`" in none.stderr
