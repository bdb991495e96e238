"""Bundles: immutable folders of files for runs and adapters."""

import threading

import pytest

from mer_featurestore import Store
from mer_featurestore.errors import BadInput, BadName, Damaged, NameTaken, UnknownName


@pytest.fixture
def store(any_url):
    """Return an empty store, local and on S3."""
    return Store.create(any_url)


def test_a_bundle_gives_back_its_files(store, tmp_path):
    """Bytes and local files come back byte for byte, by name, as JSON and as a local path."""
    weights = tmp_path / "w.bin"
    weights.write_bytes(bytes(range(256)))
    files = {"config.json": b'{"lr": 0.001}', "fold-0/weights.bin": weights}
    bundle = store.runs.add("agt-1", files, attrs={"waf": 0.9}, command="mer-zoo train agt", message="first")
    for seen in (bundle, Store.open(store.url).runs["agt-1"]):
        assert seen.json("config.json") == {"lr": 0.001}
        assert seen.read("fold-0/weights.bin") == weights.read_bytes()
        assert seen.path("fold-0/weights.bin").read_bytes() == weights.read_bytes()
        assert seen.path("fold-0/weights.bin").name == "weights.bin"
        assert seen.files == {"config.json": 13, "fold-0/weights.bin": 256}
        assert (seen.attrs, seen.commit, seen.name) == ({"waf": 0.9}, 1, "agt-1")
    assert weights.exists(), "the caller's own file is copied, not taken"
    assert next(store.log()).command == "mer-zoo train agt"


def test_a_name_is_given_once(store):
    """A second bundle of one name is refused with a free name, and the first is untouched."""
    store.runs.add("agt-1", {"a": b"1"})
    with pytest.raises(NameTaken, match="agt-1"):
        store.runs.add("agt-1", {"a": b"2"})
    assert store.runs["agt-1"].read("a") == b"1"
    store.adapters.add("agt-1", {"a": b"3"})
    assert store.adapters["agt-1"].read("a") == b"3"


def test_numbered_names(store):
    """Numbers follow the highest there is; other names with the same beginning do not count."""
    assert store.runs.free_name("agt") == "agt-1"
    for name in ("agt-1", "agt-7", "agt-x-9", "agt-08", "attention-3"):
        store.runs.add(name, {})
    assert store.runs.free_name("agt") == "agt-8"
    assert store.runs.add_numbered("agt", {"a": b"1"}).name == "agt-8"
    assert store.runs.add_numbered("new", {}).name == "new-1"


def test_writers_at_once_get_different_numbers(store):
    """Threads that add numbered bundles at once all succeed, each under a number of its own."""
    stores = [Store.open(store.url) for _ in range(6)]
    names: list[str] = []

    def add(mine: Store) -> None:
        bundle = mine.runs.add_numbered("agt", {"a": b"1"})
        names.append(bundle.name)

    threads = [threading.Thread(target=add, args=(mine,)) for mine in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [f"agt-{i}" for i in range(1, 7)]


def test_a_lost_race_for_a_name_leaves_nothing(store):
    """When another writer takes the name between the look and the commit, the loser's files are gone."""
    other = Store.open(store.url)
    write = store.write

    def late(*args, **options):
        other.runs.add("agt", {"a": b"theirs"})
        return write(*args, **options)

    store.write = late
    with pytest.raises(NameTaken):
        store.runs.add("agt", {"a": b"mine"})
    assert [size for name, size in store.storage.list("runs").items()] == [6]


def test_parents_must_exist(store):
    """A bundle that stands on something unknown is refused with a suggestion, and leaves nothing."""
    store.runs.add("agt-1", {})
    assert store.adapters.add("lora", {}, parents=("runs/agt-1",)).parents == ("runs/agt-1",)
    with pytest.raises(UnknownName, match="runs/agt-1"):
        store.runs.add("agt-2", {"a": b"1"}, parents=("runs/agt-l",))
    assert store.storage.list("runs") == {}


@pytest.mark.parametrize("file", ["../x", "/x", "a//b", "", "a\\b"])
def test_hostile_file_names(store, file):
    """A file name that would leave the bundle is refused, and nothing stays behind."""
    with pytest.raises(BadName):
        store.runs.add("r", {file: b"1"})
    assert list(store.storage.list()) == ["store.json"]


def test_attributes_must_be_json(store):
    """Attributes that JSON cannot hold are refused and leave nothing."""
    with pytest.raises(BadInput, match="JSON"):
        store.runs.add("r", {"a": b"1"}, attrs={"x": float("inf")})
    assert list(store.storage.list()) == ["store.json"]


def test_unknown_bundle_and_file(store):
    """Unknown names are refused with the nearest ones."""
    store.runs.add("agt-1", {"config.json": b"{}"})
    with pytest.raises(UnknownName, match="did you mean 'agt-1'"):
        store.runs["agt1"]
    with pytest.raises(UnknownName, match=r"did you mean 'config\.json'"):
        store.runs["agt-1"].read("config.jsn")
    assert "agt-1" in store.runs
    assert "agt-2" not in store.runs
    assert list(store.runs) == ["agt-1"]


def test_damage_is_named(store):
    """A deleted or changed file raises an error that names it; the other files are readable."""
    bundle = store.runs.add("r", {"a": b"1", "b": b"2", "c": b"3"})
    names = {name[-1]: name for name in store.storage.list("runs")}
    store.storage.delete([names["a"], names["b"]])
    store.storage.create(names["b"], b"X")
    with pytest.raises(Damaged, match="/a is missing"):
        bundle.read("a")
    with pytest.raises(Damaged, match="/b is damaged"):
        bundle.read("b")
    assert bundle.read("c") == b"3"
