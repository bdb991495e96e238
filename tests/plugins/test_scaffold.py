"""`mer-fs plugin new` and `mer-fs plugin check`: a new package works before anything is changed in it."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mer_cli.fs import main
from mer_featurestore import Store
from mer_featurestore.errors import UnknownName
from mer_plugins import host
from mer_plugins.check import check
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.samples import sample_clips
from mer_plugins.scaffold import _TRIES, new_plugin


def run(environment: dict[str, str], *words: str) -> str:
    """Run Python in that environment and return what it prints."""
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mer_fs(*words: str) -> str:
    """Run a command in this process and return what it prints."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that packages can be installed into, seen by this process and its children."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    yield tmp_path / "site"
    sys.modules.pop("my_encoder", None)
    monkeypatch.undo()
    host.reload()


def test_a_new_package_works(site: Path, tmp_path: Path) -> None:
    """It installs offline, is listed, passes the check and extracts; nothing in it was edited."""
    package = tmp_path / "package"
    assert "mer-fs plugin check my-encoder" in mer_fs("plugin", "new", "my-encoder", "--to", str(package))
    build = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(site)]
    run({**os.environ}, "-m", "pip", "install", *build, str(package))
    importlib.invalidate_caches()
    host.reload()
    assert "my-encoder" in mer_fs("plugins")
    checks = json.loads(mer_fs("plugin", "check", "my-encoder", "--bitwise", "--json"))
    assert {c["outcome"] for c in checks} == {"passed"}
    assert len(checks) == 14
    store = Store.create(tmp_path / "store")
    store.clips.add(sample_clips(tmp_path, "audio"))
    assert "4 clips into my-encoder-UTT" in mer_fs("extract", "--plugin", "my-encoder", "--store", store.url)


def test_every_template_passes_its_own_tests(tmp_path: Path) -> None:
    """For each modality the package's tests pass as written, without a warning."""
    folders = []
    for modality in _TRIES:
        new_plugin(f"my-{modality}-encoder", modality, tmp_path / modality)
        folders.append(str(tmp_path / modality))
    tests = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    path = os.pathsep.join(folders)
    assert "87 passed" in run({**os.environ, "PYTHONPATH": path}, *tests, *folders)


def test_the_package_is_clean(tmp_path: Path) -> None:
    """What is written passes ruff with its default rules, and is formatted."""
    for modality in ("audio", "video", "text"):
        folder = tmp_path / modality
        new_plugin("my-encoder", modality, folder)
        for words in (("check", "--select", "E,F,D", "--ignore", "D203,D213,D107"), ("format", "--check")):
            command = [
                sys.executable,
                "-m",
                "ruff",
                *words,
                "--line-length",
                "110",
                "--no-cache",
                "--isolated",
            ]
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("My Encoder", "audio", "cannot name a plugin; use lower-case"),
        ("prosody", "audio", "there is an extractor 'prosody' already"),
        ("numpy", "audio", "there is a Python module 'numpy' already"),
    ],
)
def test_names_that_cannot_be(name: str, modality: str, message: str, tmp_path: Path) -> None:
    """A name that is none, or is taken, is refused before anything is written."""
    with pytest.raises(PluginError, match=message):
        new_plugin(name, modality, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_where_it_cannot_go(tmp_path: Path) -> None:
    """Nothing is overwritten, and an unknown modality is an error."""
    (tmp_path / "mine").write_text("x")
    with pytest.raises(PluginError, match="not empty; name another folder with --to DIR"):
        new_plugin("my-encoder", "audio", tmp_path)
    with pytest.raises(UnknownName, match="modality"):
        new_plugin("my-encoder", "touch", tmp_path / "x")


def test_a_faulty_plugin_is_found_out(install: Callable[..., None]) -> None:
    """An extractor whose shapes are not as declared fails that check, with the reason; others go on."""
    install("odd")
    found = {c.name: c for c in check("sloppy")}
    assert found["rows"].outcome == "failed"
    assert "assert" in found["rows"].reason
    assert found["card"].outcome == "passed"
    assert found["rows"].rule.startswith("Every clip gives at least one row")


def test_what_cannot_be_checked() -> None:
    """Unknown extractors and options are told before anything runs."""
    with pytest.raises(UnknownName, match="did you mean 'prosody'"):
        check("prosdy")
    with pytest.raises(UnknownName, match="no option of prosody"):
        check("prosody", Options(extra={"x": "1"}))
