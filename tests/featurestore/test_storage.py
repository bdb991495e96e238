"""Storage: the same promises from a local folder and from an S3 server."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mer_featurestore import Store
from mer_featurestore.errors import BadName, StoreError
from mer_featurestore.storage import open_storage


@pytest.fixture
def storage(any_url):
    """Return an empty storage, local and on S3."""
    return open_storage(any_url)


def test_create_then_read_all_or_a_part(storage):
    """What was created is read back whole, and any range of it is as of a Python slice."""
    data = bytes(range(200))
    storage.create("a/b", data)
    assert storage.read("a/b") == data
    for start, length in [(0, 10), (5, None), (190, 100), (200, 5), (500, None), (500, 1), (7, 0)]:
        assert storage.read("a/b", start, length) == data[start:][:length]


def test_create_never_overwrites(storage):
    """A second create of one name fails and leaves the first bytes."""
    storage.create("x", b"first")
    with pytest.raises(FileExistsError):
        storage.create("x", b"second")
    assert storage.read("x") == b"first"


def test_what_is_not_there(storage):
    """Reading a missing file says FileNotFoundError with its name; deleting it is no error."""
    with pytest.raises(FileNotFoundError, match="nope"):
        storage.read("nope")
    with pytest.raises(FileNotFoundError):
        storage.read_many(["nope", "neither"])
    assert not storage.exists("nope")
    storage.delete(["nope"])


def test_list_is_sorted_relative_and_by_folder(storage):
    """Listing a folder gives full names with sizes, sorted, and nothing of `folder-like` neighbours."""
    for name in ("j/2", "j/10", "j/deep/er", "jj/1", "top"):
        storage.create(name, name.encode())
    assert storage.list("j") == {"j/10": 4, "j/2": 3, "j/deep/er": 9}
    assert list(storage.list()) == ["j/10", "j/2", "j/deep/er", "jj/1", "top"]
    assert list(storage.list("j", after="j/10")) == ["j/2", "j/deep/er"]
    assert storage.list("none") == {}
    assert set(storage.modified("j")) == set(storage.list("j"))


def test_read_many_keeps_the_order(storage):
    """Files fetched at once come back in the order asked for."""
    names = [f"n/{i}" for i in range(40)]
    for name in names:
        storage.create(name, name.encode())
    assert storage.read_many(names[::-1]) == [name.encode() for name in names[::-1]]
    assert storage.read_many([]) == []


def test_upload_folder_and_file(storage):
    """A folder or file written in staging appears whole under its name, and staging leaves nothing."""
    with storage.staging() as folder:
        (folder / "g" / "c").mkdir(parents=True)
        (folder / "g" / "zarr.json").write_bytes(b"{}")
        (folder / "g" / "c" / "0").write_bytes(b"chunk")
        (folder / "f").write_bytes(b"file")
        storage.flush(folder)
        storage.upload(folder / "g", "features/x/1")
        storage.upload(folder / "f", "features/x/2")
    assert storage.list() == {"features/x/1/c/0": 5, "features/x/1/zarr.json": 2, "features/x/2": 4}


def test_delete_some(storage):
    """Deleting takes the named files and no others."""
    for name in ("d/1", "d/2", "e/1"):
        storage.create(name, b"")
    storage.delete(["d/1", "e/1"])
    assert list(storage.list()) == ["d/2"]


def test_one_of_many_creators_wins(storage):
    """Threads that create one name at once: exactly one succeeds, and its bytes are what is there."""
    winners: list[int] = []
    start = threading.Barrier(8)

    def create(i: int) -> None:
        start.wait()
        try:
            storage.create("race", b"%d" % i)
        except FileExistsError:
            return
        winners.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % i for i in winners] == [storage.read("race")]


def test_pickles_without_secrets(storage):
    """A storage sent to another process works there and takes no credentials along."""
    storage.create("x", b"1")
    data = pickle.dumps(storage)
    assert b"not-a-real-secret" not in data
    assert pickle.loads(data).read("x") == b"1"


def test_deleting_the_last_file_removes_local_folders(tmp_path):
    """A local storage leaves no empty folders behind."""
    storage = open_storage(tmp_path / "s")
    storage.create("a/b/c", b"")
    storage.delete(["a/b/c"])
    assert not (tmp_path / "s" / "a").exists()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named_as_such(tmp_path, monkeypatch, code):
    """As on a USB stick: making a store says what is missing, not that permission is, and leaves nothing."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        StoreError, match="has no hard links, which commits need; put the store on another disk"
    ):
        Store.create(tmp_path / "s")
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file()]


def test_files_that_vanish_while_a_folder_is_listed(tmp_path):
    """A name that leads nowhere any more, as when somebody sweeps meanwhile, is passed over."""
    storage = open_storage(tmp_path)
    storage.create("tmp/a", b"1")
    (tmp_path / "tmp" / "gone").symlink_to("nowhere")
    assert storage.list() == {"tmp/a": 1}
    assert list(storage.modified("tmp")) == ["tmp/a"]


def test_folders_that_vanish_while_they_are_tidied(tmp_path, monkeypatch):
    """A staging folder that its writer removes meanwhile is no error."""
    storage, scandir = open_storage(tmp_path), os.scandir
    for name in ("one", "two/inner"):
        (tmp_path / "tmp" / name).mkdir(parents=True)

    def remove_first(path):
        shutil.rmtree(path, ignore_errors=os.fspath(path).endswith("inner"))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", lambda path: (remove_first if "two" in str(path) else scandir)(path))
    storage.tidy("tmp", float("inf"))
    assert not (tmp_path / "tmp" / "one").exists()


def test_tidy_removes_only_old_empty_folders(tmp_path):
    """Empty folders of killed writers go; young ones, and those with files, stay."""
    storage = open_storage(tmp_path)
    for folder in ("tmp/old/inner", "tmp/full", "tmp/young"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tmp/full/file").touch()
    for folder in ("tmp/old/inner", "tmp/old", "tmp/full"):
        os.utime(tmp_path / folder, (1, 1))
    storage.tidy("tmp", before=1000)
    assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == ["full", "old", "young"]
    assert not (tmp_path / "tmp/old/inner").exists()


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://user:pw@bucket/x", "s3://b/../x", "s3://b/x?y=1"])
def test_bad_s3_urls(url):
    """An S3 URL without a bucket, with credentials or with a climbing prefix is refused, not shown."""
    with pytest.raises(BadName) as caught:
        open_storage(url)
    assert "pw" not in str(caught.value)


def test_unknown_scheme():
    """Another scheme is refused with what there is."""
    with pytest.raises(StoreError, match=r"gs://.*s3://"):
        open_storage("gs://bucket")


def test_s3_errors_show_no_secrets(s3_url, monkeypatch):
    """A server that cannot be reached is one clear line that names the store and holds no credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="s3://stores") as caught:
        open_storage(s3_url).read("store.json")
    assert "not-a-real-secret" not in str(caught.value)


def test_s3_bucket_that_does_not_exist(s3_url):
    """Making or opening a store there says that it is the bucket that is missing."""
    for use in (Store.create, Store.open):
        with pytest.raises(StoreError, match="the bucket of s3://missing/x does not exist; make it, or"):
            use("s3://missing/x")


def test_s3_access_denied(s3_url, monkeypatch):
    """A server that says 403 gives an error that names the variables to look at."""

    class Deny(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        do_PUT = do_HEAD = do_GET  # noqa: N815 - the names http.server calls

        def log_message(self, *_) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Deny) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        storage = open_storage(s3_url)
        for call in (lambda: storage.read("x"), lambda: storage.create("x", b"")):
            with pytest.raises(StoreError, match=r"refuses access.*AWS_ACCESS_KEY_ID"):
                call()
        server.shutdown()


def test_s3_credentials_from_a_profile(s3_url, monkeypatch, tmp_path):
    """Without keys in the environment those of the AWS profile count; an unknown profile is named."""
    keys = "[work]\naws_access_key_id = test\naws_secret_access_key = from-a-file\n"
    (tmp_path / "credentials").write_text(keys)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    storage = open_storage(s3_url)
    storage.create("x", b"1")
    assert storage.read("x") == b"1"
    assert b"from-a-file" not in pickle.dumps(storage)
    monkeypatch.setenv("AWS_PROFILE", "wrok")
    with pytest.raises(StoreError, match="profile wrok"):
        open_storage(s3_url)


def test_s3_after_a_fork_is_an_error_not_a_hang(s3_url):
    """A forked child of a process that read from S3 is told to use spawn instead of hanging."""
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process with threads, which this is about
from mer_featurestore.errors import StoreError
from mer_featurestore.storage import open_storage
storage = open_storage(sys.argv[1])
storage.create("x", b"1")
child = os.fork()
if child == 0:
    try:
        storage.read("x")
    except StoreError as error:
        os._exit(0 if "spawn" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    child = subprocess.run([sys.executable, "-c", script, s3_url], check=False, timeout=60)
    assert child.returncode == 0
