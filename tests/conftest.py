"""Fixtures the whole suite uses."""

import csv
import fcntl
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mer_featurestore import Store

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give time to whichever test happens to be the first that needs the composite's features."""
    for item in items:
        if "composite_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real media and weights that may lie beside the checkout; skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared media and weights (../shared), which are not in the repository")
    return SHARED


@pytest.fixture(scope="session")
def composite_folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the composite corpus and three real encoders' features, extracted once per run.

    457 clips (three broken), no labels; spaces `whisper` (layer 2), `hf-text` (last layer) and
    `face-expression` (centre crop), each at utterance and frame level. Takes a minute or two; processes of
    one test run wait for the one that extracts. For reading only: `composite_store` is a copy to write to.
    """
    run = tmp_path_factory.getbasetemp()
    root = run.parent if run.name.startswith("popen-") else run  # what xdist's workers have in common
    with (root / "composite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "composite.done").exists():
            shutil.rmtree(root / "composite", ignore_errors=True)
            extract_composite(shared, root / "composite")
            (root / "composite.done").touch()
    return root / "composite"


def extract_composite(shared: Path, folder: Path) -> None:
    """Make the store of `composite_folder`."""
    from mer_featurestore.catalogue import read_catalogue
    from mer_plugins.contract import Options
    from mer_plugins.pipeline import Request, extract, plan

    store = Store.create(folder)
    store.clips.add(read_catalogue(shared / "data" / "composite" / "clips.csv").clips)
    for plugin, model, layers, extra in (
        ("whisper", "whisper-tiny-en", "2", {}),
        ("hf-text", "all-minilm-l6-v2", "last", {}),
        ("face-expression", "face-expression", None, {"face": "center"}),
    ):
        options = Options(model=str(shared / "models" / model), layers=layers, device="cpu", extra=extra)
        wanted = plan(store, Request(plugin=plugin, options=options, levels=("utt", "frame")))
        failed = extract(store, wanted).failed
        lost = {key: why for key, why in failed.items() if not key.startswith("broken_")}
        # Two transcripts are empty. Any other failure would be blamed on the tests that read the features.
        assert lost.keys() <= {"cp_0056", "cp_0397"}, f"{plugin}: {lost}"


@pytest.fixture
def composite_store(composite_folder: Path, tmp_path: Path) -> Store:
    """Return a copy of the composite store of a test's own."""
    return Store.open(shutil.copytree(composite_folder, tmp_path / "composite"))


@pytest.fixture(scope="session")
def composite_labels(shared: Path) -> dict[str, str]:
    """Return key -> emotion of all 457 clips of the composite, those of `unlabeled` and `test` too."""
    with (shared / "data" / "composite" / "labels.csv").open(encoding="utf-8", newline="") as file:
        return {row["key"]: row["emotion"] for row in csv.DictReader(file)}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Run an S3 server process on loopback for the session; return its URL.

    It has the bucket `stores`, and the bucket `careless`, for which it ignores the conditions of puts.
    """
    script = Path(__file__).with_name("s3_server.py")
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for bucket in ("stores", "careless"):
            urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        yield url
        server.stdin.close()
        server.wait(10)


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the AWS environment at the server and return a fresh `s3://stores/<random>` to put a store at."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://stores/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a store can be made: a local folder, then S3."""
    return request.getfixturevalue("s3_url") if request.param == "s3" else str(tmp_path / "store")
