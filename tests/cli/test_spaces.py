"""`mer-fs spaces` and `mer-fs compact`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mer_cli.fs import main
from mer_featurestore import Store
from support.features import fill, make_clips, make_spec, write


def run(url: Path, *args: str) -> Result:
    """Run a command on a store."""
    return CliRunner().invoke(main, [args[0], "--store", str(url), *args[1:]])


@pytest.fixture
def url(tmp_path: Path) -> Path:
    """Return a store with a space of three fragments and one of one, in another backend."""
    store, _ = fill(tmp_path / "s", make_spec())
    spec = make_spec("y-UTT", row_shape=(2, 3), dtype="float32")
    write(store, spec, make_clips(4, spec), backend="hdf5", codec="gzip")
    with store.features.writer(make_spec()) as writer:
        writer.quarantine("bad", "no audio stream")
    return tmp_path / "s"


def test_spaces_lists_what_there_is(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row per space with its facts; --json has all of them, --at those of a past commit."""
    monkeypatch.setenv("COLUMNS", "160")
    lines = run(url, "spaces").output.splitlines()
    assert lines[1].split()[:6] == ["x-FRA", "audio", "frame", "6", "float16", "60"]
    assert "hdf5, gzip" in lines[2]
    first, second = json.loads(run(url, "spaces", "--json").output)
    assert (first["name"], first["clips"], first["fragments"], first["quarantined"]) == ("x-FRA", 60, 3, 1)
    assert (second["row_shape"], second["stored"], second["files"]) == ([2, 3], ["hdf5, gzip"], 1)
    assert second["fingerprint"] == Store.open(url).features["y-UTT"].fingerprint
    assert [s["clips"] for s in json.loads(run(url, "spaces", "--json", "--at", "1").output)] == [20]


def test_spaces_of_an_empty_store(tmp_path: Path) -> None:
    """An empty store says what to do."""
    Store.create(tmp_path / "s")
    assert "mer-fs extract" in run(tmp_path / "s", "spaces").output


def test_compact_merges_and_says_so(url: Path) -> None:
    """The first run merges in one commit that names the command, the second finds nothing to do."""
    result = run(url, "compact", "x-FRA", "--json")
    assert json.loads(result.output) == [
        {"space": "x-FRA", "before": 3, "after": 1, "files_before": 39, "files_after": 13}
    ]
    assert "nothing to merge" in run(url, "compact").output
    store = Store.open(url)
    assert (store.commit, len(store.features["x-FRA"])) == (6, 60)
    assert next(store.log()).command
    result = run(url, "compact", "x-FRB")
    assert (result.exit_code, "did you mean 'x-FRA'" in result.output) == (1, True)
