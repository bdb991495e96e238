"""The store as a whole: making, opening, refusing, moving with its own writes."""

import json
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mer_featurestore import Store
from mer_featurestore.errors import Damaged, NameTaken, NotAStore, StoreError, UnknownName
from mer_featurestore.journal import Change


def note(key: str) -> Change:
    """Return the smallest change."""
    return Change(quarantine={"space": {key: "reason"}})


def test_create_and_open(any_url):
    """A new store is empty, opens again, and knows its backend."""
    made = Store.create(any_url, backend="hdf5")
    opened = Store.open(any_url)
    assert (made.commit, opened.commit, opened.backend) == (0, 0, "hdf5")
    assert len(opened.runs) == len(opened.adapters) == 0
    assert repr(opened) == f"Store({opened.url!r}, commit 0, hdf5)"


def test_create_twice_is_refused(any_url):
    """A store is never made over a store."""
    Store.create(any_url).write(lambda _: note("k"))
    with pytest.raises(NameTaken, match="already"):
        Store.create(any_url)
    assert Store.open(any_url).commit == 1


def test_create_leaves_foreign_folders_alone(tmp_path):
    """A folder with other things in it, and a file, are refused and untouched."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        Store.create(tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        Store.create(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_unknown_backend(tmp_path):
    """A backend that does not exist is refused with a suggestion."""
    with pytest.raises(UnknownName, match="zarr"):
        Store.create(tmp_path / "s", backend="zar")


def test_open_what_is_no_store(any_url, tmp_path):
    """Opening nothing, an empty folder or a file says how to make a store."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for url in (any_url, tmp_path / "file", tmp_path / "empty", tmp_path / "file" / "below"):
        with pytest.raises(NotAStore, match="mer-fs init --store"):
            Store.open(url)


def test_a_newer_format_is_refused(any_url):
    """A store of a newer version is not touched; the remedy is to upgrade."""
    store = Store.create(any_url)
    store.storage.delete(["store.json"])
    store.storage.create("store.json", json.dumps({"format": 2, "backend": "zarr"}).encode())
    with pytest.raises(NotAStore, match=r"format 2.*upgrade"):
        Store.open(any_url)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"format": "x", "backend": "zarr"}', b'{"format": 1}', b"\xff"]
)
def test_a_damaged_header_is_named(tmp_path, data):
    """A store.json that cannot be read is named."""
    Store.create(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_bytes(data)
    with pytest.raises(Damaged, match=r"store\.json"):
        Store.open(tmp_path / "s")


def test_a_store_stays_at_its_commit_until_told(any_url):
    """A store sees one snapshot; its own writes and refresh move it, others' writes do not."""
    mine, other = Store.create(any_url), Store.open(any_url)
    other.write(lambda _: note("a"))
    assert mine.commit == 0
    mine.refresh()
    assert mine.commit == 1
    other.write(lambda _: note("b"))
    mine.write(lambda _: note("c"))
    assert mine.commit == 3
    assert [commit.number for commit in other.log()] == [2, 1]


def test_the_past_is_read_only(any_url):
    """A store opened at a commit reads that commit for good and refuses to write."""
    store = Store.create(any_url)
    for key in "abc":
        store.write(lambda _, key=key: note(key))
    past = Store.open(any_url, at=2)
    past.refresh()
    assert set(past.snapshot.quarantine("space")) == {"a", "b"}
    with pytest.raises(StoreError, match="--at"):
        past.write(lambda _: note("x"))
    with pytest.raises(StoreError, match="the newest is 3"):
        Store.open(any_url, at=9)


def test_a_store_pickles_at_its_commit(any_url):
    """A spawned worker gets the same store at the same commit, without credentials."""
    store = Store.create(any_url)
    store.write(lambda _: note("a"))
    data = pickle.dumps(store)
    Store.open(any_url).write(lambda _: note("b"))
    assert pickle.loads(data).commit == 1
    assert b"not-a-real-secret" not in data


def test_repr_shows_what_is_inside(tmp_path):
    """The repr names runs and adapters."""
    store = Store.create(tmp_path / "s")
    store.runs.add("agt-1", {"config.json": b"{}"})
    store.adapters.add("lora", {"card.json": b"{}"})
    assert repr(store).splitlines()[1:] == ["  runs      agt-1", "  adapters  lora"]


def test_a_server_without_conditional_puts_is_refused(s3_url):
    """A server on which commits could overwrite each other gets no store, and is told why."""
    url = s3_url.replace("s3://stores/", "s3://careless/")
    with pytest.raises(StoreError, match="conditional puts"):
        Store.create(url)
    with pytest.raises(NotAStore):
        Store.open(url)


def test_credentials_are_nowhere_in_a_store(s3_url):
    """No file of a store on S3 holds a credential."""
    store = Store.create(s3_url)
    store.runs.add("r", {"a": b"1"}, command="mer-zoo train")
    for name in store.storage.list():
        assert b"not-a-real-secret" not in store.storage.read(name)
    assert "not-a-real-secret" not in repr(store)


IN_A_CHILD = """
import os, resource, sys
import mer_featurestore.bundles
from mer_featurestore import Store
from mer_featurestore.errors import StoreError
from mer_featurestore.journal import Change
{before}
store = Store.open(sys.argv[1])
try:
    {action}
except StoreError as error:
    print(error)
    sys.exit(7)
"""


def run_in_child(folder, before: str, action: str) -> subprocess.CompletedProcess:
    """Run an action on a store in a process of its own, where limits and users can be changed."""
    script = IN_A_CHILD.format(before=before, action=action)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=False, capture_output=True, text=True, timeout=60
    )


LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"


@pytest.mark.parametrize(
    "action",
    [
        'store.runs.add("big", {"weights": bytes(100_000)})',
        'store.write(lambda _: Change(quarantine={"s": {"k": "x" * 100_000}}))',
    ],
)
def test_a_full_disk(tmp_path, action):
    """When the disk is full, one clear error says so, and the store is as it was, without leftovers."""
    store = Store.create(tmp_path / "s")
    store.runs.add("small", {"a": b"1"})
    files = store.storage.list()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 4096
    child = run_in_child(tmp_path / "s", LIMIT, action)
    assert child.returncode == 7, child.stderr
    assert "free some space" in child.stdout
    assert store.storage.list() == files
    assert Store.open(tmp_path / "s").runs["small"].read("a") == b"1"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# Root may write anywhere, so as root the child becomes nobody.
NOBODY = "os.getuid() == 0 and (os.setgid(65534), os.setuid(65534))"


@pytest.mark.parametrize(
    "action",
    ['store.runs.add("r", {"a": b"1"})', 'store.write(lambda _: Change(quarantine={"s": {"k": "r"}}))'],
)
def test_no_write_permission(open_folder, action):
    """A store that may be read but not written says which permission is missing; reading works."""
    store = Store.create(open_folder / "s")
    store.runs.add("small", {"a": b"1"})
    folders = [path for path in (open_folder / "s", *(open_folder / "s").rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    child = run_in_child(open_folder / "s", NOBODY, 'store.runs["small"].read("a"); ' + action)
    for folder in folders:
        folder.chmod(0o755)
    assert child.returncode == 7, child.stderr
    assert "no permission" in child.stdout
    assert str(open_folder / "s") in child.stdout
