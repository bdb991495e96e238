"""Fixtures the whole suite uses."""

import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real media and weights that may lie beside the checkout; skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared media and weights (../shared), which are not in the repository")
    return SHARED


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Run an S3 server process on loopback for the session; return its URL. It has the bucket `stores`."""
    script = Path(__file__).with_name("s3_server.py")
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/stores", method="PUT")).close()
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
