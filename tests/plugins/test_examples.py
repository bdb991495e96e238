"""The example plugin is a real package: built, installed away from this environment, and used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mer_featurestore import Store
from mer_plugins.samples import sample_clips

EXAMPLE = Path(__file__).parents[2] / "examples" / "mer-opensmile"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the example into a folder of its own; return an environment that sees it."""
    pytest.importorskip("opensmile", reason="needs opensmile, which the dev extra installs")
    target = tmp_path_factory.mktemp("site")
    build = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *build, str(EXAMPLE)], check=True)
    return {**os.environ, "PYTHONPATH": str(target)}


def run(environment: dict[str, str], *command: str) -> str:
    """Run a command of mer-fs in that environment and return what it prints."""
    program = [sys.executable, "-c", "from mer_cli.fs import main; main()", *command]
    return subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout


def test_it_is_listed(installed: dict[str, str]) -> None:
    """An entry point is all it takes for `mer-fs plugins` to know it."""
    listed = run(installed, "plugins")
    assert "egemaps " in listed
    assert "egemaps-lld " in listed


def test_it_passes_its_own_tests(installed: dict[str, str]) -> None:
    """The conformance kit runs from the example's own folder."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    done = subprocess.run(
        [*tests, str(EXAMPLE / "tests")], env=installed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_extracts(installed: dict[str, str], tmp_path: Path) -> None:
    """Its features land in the store under its name, with openSMILE's version in what made them."""
    clips = sample_clips(tmp_path, "audio")
    store = Store.create(tmp_path / "store")
    store.clips.add(clips)
    run(installed, "extract", "--plugin", "egemaps", "--store", str(tmp_path / "store"))
    store.refresh()
    space = store.features["egemaps-UTT"]
    assert space.matrix([clip.key for clip in clips]).shape == (len(clips), 88)
    assert "opensmile" in str(dict(space.spec.made_by))
