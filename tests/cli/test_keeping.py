"""The commands that keep a store in order: init, log, lineage, rm, gc, verify."""

import json

import pytest
from click.testing import CliRunner, Result

from mer_cli.fs import main
from mer_featurestore import Store


def call(*arguments: str) -> Result:
    """Run mer-fs in this process."""
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def url(tmp_path, monkeypatch) -> str:
    """Make a store with `mer-fs init` where MER_STORE points, with an adapter and a run on it."""
    path = str(tmp_path / "store")
    monkeypatch.setenv("MER_STORE", path)
    assert call("init").exit_code == 0
    store = Store.open(path)
    store.adapters.add("lora", {"card.json": b"{}"}, command="mer-zoo adapt")
    store.runs.add("agt-1", {"config.json": b"{}"}, parents=("adapters/lora",), command="mer-zoo train agt")
    return path


def test_init_makes_a_store_once(tmp_path):
    """`init` makes a store with the backend asked for; a second time it says that there is one."""
    path = str(tmp_path / "new")
    result = call("init", "--store", path, "--backend", "hdf5", "--json")
    assert json.loads(result.stdout) == {"store": path, "backend": "hdf5"}
    assert Store.open(path).backend == "hdf5"
    again = call("init", "--store", path)
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: there is a store")
    assert call("init", "--store", str(tmp_path / "x"), "--backend", "zar").exit_code != 0


def test_log_shows_commits_newest_first(url):
    """`log` lists number, what and command; `-n` and `--at` limit it."""
    lines = call("log").stdout.splitlines()
    assert "runs/agt-1" in lines[1]
    assert "mer-zoo adapt" in lines[2]
    assert [commit["number"] for commit in json.loads(call("log", "--json").stdout)] == [2, 1]
    assert [commit["number"] for commit in json.loads(call("log", "-n", "1", "--json").stdout)] == [2]
    assert [commit["number"] for commit in json.loads(call("log", "--at", "1", "--json").stdout)] == [1]


def test_lineage_in_three_forms(url):
    """`lineage` prints a tree, one JSON document, or Graphviz's DOT."""
    assert call("lineage", "agt-1").stdout.splitlines()[1].startswith("└─ adapters/lora")
    assert json.loads(call("lineage", "runs/agt-1", "--json").stdout)["parents"][0]["ref"] == "adapters/lora"
    assert call("lineage", "agt-1", "--dot").stdout.startswith("digraph lineage {")
    wrong = call("lineage", "agt1")
    assert wrong.exit_code == 1
    assert "did you mean 'agt-1'" in wrong.stderr


def test_rm_asks_lineage_first(url):
    """`rm` refuses what others stand on, tells with `-n`, and removes what is free."""
    refused = call("rm", "lora")
    assert refused.exit_code == 1
    assert "runs/agt-1" in refused.stderr
    assert "--force" in refused.stderr
    assert call("rm", "lora", "-n").stdout.startswith("would remove adapters/lora")
    assert json.loads(call("rm", "agt-1", "--json").stdout)["ref"] == "runs/agt-1"
    assert "removed adapters/lora" in call("rm", "lora").stdout
    assert next(Store.open(url).log()).command


def test_gc_deletes_and_says_how_much(url):
    """`gc` sweeps leftovers after the grace time, and gives up old snapshots with `--keep`."""
    store = Store.open(url)
    store.storage.create("runs/dead/weights", bytes(1000))
    assert call("gc").stdout.startswith("deleted 0 files")
    assert call("gc", "--grace", "0", "-n").stdout.startswith("would delete 1 file, 1,000 bytes")
    assert json.loads(call("gc", "--grace", "0", "--json").stdout)["files"] == {"runs/dead/weights": 1000}
    call("rm", "agt-1")
    assert "before commit 3 given up" in call("gc", "--grace", "0", "--keep", "1").stdout
    past = call("log", "--at", "2")
    assert past.exit_code == 1
    assert "given up" in past.stderr


def test_verify_tells_with_its_exit_code(url):
    """`verify` ends with 0 for a sound store and with 1 and a list for a damaged one."""
    assert call("verify").stdout.startswith("sound: 2 commits")
    store = Store.open(url)
    name = next(iter(store.storage.list("runs")))
    store.storage.delete([name])
    store.storage.create(name, b"xx")
    assert call("verify", "--quick").exit_code == 0
    result = call("verify", "--json")
    assert result.exit_code == 1
    assert [problem["where"] for problem in json.loads(result.stdout)["problems"]] == [name]
    assert "checksum" in call("verify").stdout


def test_verify_of_a_store_that_does_not_open(url):
    """With a half-written newest commit other commands name the file, and `verify` still lists everything."""
    store = Store.open(url)
    store.storage.delete(["journal/00000002.json"])
    store.storage.create("journal/00000002.json", b'{"half')
    refused = call("log")
    assert refused.exit_code == 1
    assert "journal/00000002.json" in refused.stderr
    result = call("verify")
    assert result.exit_code == 1
    assert "journal/00000002.json" in result.stdout.replace("\n", "")


@pytest.mark.parametrize("command", ["log", "gc", "verify", "rm x", "lineage x"])
def test_no_store_there(command, tmp_path):
    """Each command says in one line how to make the store that is missing."""
    result = call(*command.split(), "--store", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "mer-fs init --store" in result.stderr
    assert result.stderr.count("\n") == 1
