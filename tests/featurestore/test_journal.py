"""The journal: atomic commits, snapshots, checkpoints, damage."""

import json
import threading
import time

import pytest

from mer_featurestore.commits import Change, Commit, Entry, seal
from mer_featurestore.errors import BadInput, Damaged, StoreError
from mer_featurestore.journal import EVERY, Journal, checkpoint_name, commit_name
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.storage import open_storage


def entry(name: str, path: str = "", **facts) -> Entry:
    """Return an entry without files."""
    return Entry(kind="features", name=name, path=path or f"features/{name}/0", backend="zarr", **facts)


def note(text: str) -> Change:
    """Return the smallest change."""
    return Change(quarantine={"space": {text: "reason"}})


def damage(storage, name: str, data: bytes) -> None:
    """Replace a file behind the storage's back."""
    storage.delete([name])
    storage.create(name, data)


@pytest.fixture
def storage(any_url):
    """Return an empty storage, local and on S3."""
    return open_storage(any_url)


@pytest.fixture
def local(tmp_path):
    """Return an empty local storage."""
    return open_storage(tmp_path / "store")


def test_commits_add_up(storage):
    """Each commit is numbered, changes the snapshot, and another journal of the same store sees the same."""
    journal = Journal(storage)
    assert journal.head() == 0
    first = journal.commit(lambda _: Change(add=[entry("a"), entry("b")]), command="mer-fs x", message="m")
    second = journal.commit(lambda _: Change(add=[entry("a", "features/a/1")], remove=["features/b/0"]))
    assert (first.number, second.number) == (1, 2)
    assert first.names("features") == ["a", "b"]
    for seen in (second, Journal(storage).snapshot()):
        assert seen.to_json() == second.to_json()
        assert [e.path for e in seen.entries("features", "a")] == ["features/a/0", "features/a/1"]
        assert seen.names("features") == ["a"]
        assert seen.placed("features/a/1").commit == 2
    assert first.names("features") == ["a", "b"], "an older snapshot never changes"


def test_log_says_who_and_with_what(storage):
    """The log gives commits newest first, with command, message, user, host and time."""
    journal = Journal(storage)
    journal.commit(lambda _: Change(add=[entry("a")]), command="mer-fs x", message="why")
    journal.commit(lambda _: note("k"))
    newest, oldest = journal.log()
    assert (newest.number, oldest.number, oldest.command, oldest.message) == (2, 1, "mer-fs x", "why")
    assert oldest.user
    assert oldest.host
    assert oldest.time.endswith("Z")
    assert oldest.summary() == "+ features/a"
    assert newest.summary() == "1 quarantined"
    assert [commit.number for commit in journal.log(1)] == [2]


def test_an_empty_change_makes_no_commit(local):
    """When there is nothing to do, no file is written and the newest snapshot comes back."""
    journal = Journal(local)
    assert journal.commit(lambda _: Change(quarantine={"space": {}})).number == 0
    assert local.list("journal") == {}


def test_quarantine_is_set_changed_and_lifted(local):
    """Reasons are kept per space and key until they are lifted."""
    journal = Journal(local)
    journal.commit(lambda _: Change(quarantine={"s": {"a": "bad", "b": "worse"}, "t": {"a": "odd"}}))
    now = journal.commit(lambda _: Change(quarantine={"s": {"a": None, "b": "fine"}, "t": {"a": None}}))
    assert now.quarantine("s") == {"b": "fine"}
    assert now.quarantine("t") == {}
    assert now.quarantined_spaces() == ["s"]


def test_a_loser_looks_again_and_follows(storage):
    """Who loses the race is asked again with the winner's snapshot and gets the next number."""
    mine, other = Journal(storage), Journal(storage)
    seen: list[int] = []

    def build(now: Snapshot) -> Change:
        seen.append(now.number)
        if len(seen) <= 2:
            other.commit(lambda _: note(f"other {len(seen)}"))
        return note("mine")

    assert mine.commit(build).number == 3
    assert seen == [0, 1, 2]


def test_an_error_in_build_ends_the_commit(local):
    """What `build` raises (a name is taken meanwhile) reaches the caller and nothing is committed."""
    journal = Journal(local)

    def build(now: Snapshot) -> Change:
        raise BadInput("taken")

    with pytest.raises(BadInput):
        journal.commit(build)
    assert journal.head() == 0


def test_a_repeated_request_is_not_a_lost_race(local, monkeypatch):
    """A client whose own write succeeded although it was told otherwise does not commit twice."""
    journal = Journal(local)
    create = local.create

    def create_twice(name: str, data: bytes) -> None:
        create(name, data)
        create(name, data)  # what a client does when the answer to the first request is lost

    monkeypatch.setattr(local, "create", create_twice)
    assert journal.commit(lambda _: note("once")).number == 1
    assert Journal(local).head() == 1


def test_threads_of_one_journal_lose_nothing(local):
    """Threads that share a journal get one commit each."""
    journal = Journal(local)
    threads = [
        threading.Thread(target=journal.commit, args=(lambda _, i=i: note(f"k{i}"),)) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.head() == 16
    assert len(Journal(local).snapshot().quarantine("space")) == 16


def test_the_past_stays_readable(storage):
    """Every commit number gives the snapshot of then; numbers that are not there are refused."""
    journal = Journal(storage)
    for i in range(5):
        journal.commit(lambda _, i=i: note(f"k{i}"))
    for at in range(6):
        assert len(Journal(storage).snapshot(at).quarantine("space")) == at
    for at in (6, -1):
        with pytest.raises(StoreError, match="no commit"):
            journal.snapshot(at)


def test_checkpoints_give_what_a_replay_gives(local):
    """With checkpoints, without them, or with damaged ones, every snapshot is the same."""
    journal = Journal(local)
    for i in range(3 * EVERY + 5):
        journal.commit(lambda _, i=i: note(f"k{i}"))
    numbers = [1, EVERY - 1, EVERY, 2 * EVERY, 3 * EVERY, 3 * EVERY + 5]
    expected = [journal.snapshot(n).to_json() for n in numbers]
    assert list(local.list("checkpoints")) == [checkpoint_name(2 * EVERY), checkpoint_name(3 * EVERY)]
    assert [Journal(local).snapshot(n).to_json() for n in numbers] == expected
    damage(local, checkpoint_name(3 * EVERY), b'{"half": ')
    assert [Journal(local).snapshot(n).to_json() for n in numbers] == expected
    local.delete(local.list("checkpoints"))
    assert [Journal(local).snapshot(n).to_json() for n in numbers] == expected


def test_a_missing_checkpoint_is_made_up_for(local):
    """When the writer of a checkpoint was killed, the next one who had to replay much writes one."""
    journal = Journal(local)
    for i in range(2 * EVERY + 3):
        journal.commit(lambda _, i=i: note(f"k{i}"))
    local.delete(local.list("checkpoints"))
    number = Journal(local).commit(lambda _: note("new")).number
    assert list(local.list("checkpoints")) == [checkpoint_name(number)]


def test_thousands_of_commits_open_fast(local):
    """A store of 5,000 commits opens in well under a quarter of a second and commits within 10 ms."""
    for number in range(1, 5001):
        files = {"": {"size": 1, "sha256": "0" * 64}}
        added = entry("s", f"features/s/{number}", attrs={"rows": 10}, files=files)
        commit = Commit(
            number=number, id="x", time="2026-01-01T00:00:00.000Z", user="u", host="h", add=(added,)
        )
        path = local.path(commit_name(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(commit.to_bytes())
    full = Journal(local).snapshot(4992)  # one slow replay, to make the checkpoint a writer would have left
    local.create(checkpoint_name(4992), seal(full.to_json()))
    opened = []
    for _ in range(3):
        began = time.perf_counter()
        journal = Journal(local)
        assert len(journal.snapshot().entries("features")) == 5000
        opened.append(time.perf_counter() - began)
    assert min(opened) < 0.25
    took = []
    for i in range(20):
        began = time.perf_counter()
        journal.commit(lambda _, i=i: note(f"k{i}"))
        took.append(time.perf_counter() - began)
    assert sorted(took)[5] < 0.010  # the machine may be busy with other things


@pytest.mark.parametrize("data", [b"", b'{"number": 2, "id": "x', b"{}", b"null", b"[]", b"\xff\xfe", b"0"])
def test_a_half_written_commit_is_named(storage, data):
    """A journal file that is cut short or is something else is named, and what came before is readable."""
    journal = Journal(storage)
    for i in range(3):
        journal.commit(lambda _, i=i: note(f"k{i}"))
    damage(storage, commit_name(3), data)
    with pytest.raises(Damaged, match=r"journal/00000003\.json.*--at"):
        Journal(storage).snapshot()
    with pytest.raises(Damaged, match=r"journal/00000003\.json"):
        next(Journal(storage).log(upto=3))
    assert Journal(storage).snapshot(2).number == 2


def test_a_flipped_byte_in_a_commit_is_found(local):
    """Valid JSON that is not what was written is damage too."""
    journal = Journal(local)
    journal.commit(lambda _: note("key"))
    data = local.read(commit_name(1))
    damage(local, commit_name(1), data.replace(b'"key"', b'"kex"'))
    assert json.loads(local.read(commit_name(1)))
    with pytest.raises(Damaged, match="checksum"):
        Journal(local).snapshot()


def test_a_missing_commit_is_found(local):
    """A gap in the numbers is damage, not the end of the journal."""
    journal = Journal(local)
    for i in range(3):
        journal.commit(lambda _, i=i: note(f"k{i}"))
    local.delete([commit_name(2)])
    with pytest.raises(Damaged, match=r"journal/00000002\.json is missing"):
        Journal(local).snapshot()


def test_a_commit_in_the_wrong_place_is_found(local):
    """A copy of a commit under another number is damage."""
    journal = Journal(local)
    journal.commit(lambda _: note("k"))
    local.create(commit_name(2), local.read(commit_name(1)))
    with pytest.raises(Damaged, match="holds commit 1"):
        Journal(local).snapshot()


def test_only_plain_json_can_be_committed(local):
    """Attributes that JSON cannot hold are refused before anything is written."""
    for value in (float("nan"), {1, 2}, object()):
        with pytest.raises(BadInput, match="JSON"):
            Journal(local).commit(lambda _, value=value: Change(add=[entry("a", attrs={"x": value})]))
    assert Journal(local).head() == 0
