"""Names and keys: what is refused, and that nothing ever leaves the store."""

import pytest

from mer_featurestore import Store
from mer_featurestore.errors import BadName
from mer_featurestore.names import check_key, check_name, check_relative, fresh
from mer_featurestore.storage import LocalStorage

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:",
    "x" * 300,
    "ü" * 150,
    ".hidden",
    "-rf",
    "name.",
    "two words",
    "line\nbreak",
    "nul\0byte",
    "con",
    "NUL.txt",
    "Com1",
    "lpt¹",
    "e\u0301",  # not NFC
    "\u202etxt",
    "\ud800",
    "a*b",
    "a?b",
    'a"b',
    "a:b",
    "~",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name):
    """A name that could leave the store, hide, collide or confuse a shell is refused with a remedy."""
    with pytest.raises(BadName) as caught:
        check_name(name, "run")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["hubert-large-UTT", "a", "gefühl", "感情-FRA", "v1.2_x+y=z@3", "x" * 200, "console"]
)
def test_sensible_names_pass(name):
    """Letters of any script, digits and the listed punctuation make a name, and it comes back as it was."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_never_make_a_file(name, tmp_path):
    """Adding a bundle under a hostile name is refused, and nothing appears in the store or outside it."""
    store = Store.create(tmp_path / "deep" / "store")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadName):
        store.runs.add(name, {"a": b"x"})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "key", ["../x", "/abs", "a/b", "con", "two words", "é", "e\u0301", "x" * 512, ".", "🙂"]
)
def test_any_printable_key_is_a_key(key):
    """Keys are data and never paths, so whatever file names people use can be one."""
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "x" * 513, "é" * 257, "a\tb", "a\nb", "\0", "\x7f", "\ud800", 3, None, b"x"]
)
def test_keys_that_cannot_be_stored_are_refused(key):
    """Empty and oversized keys, control characters, lone surrogates and other types are refused."""
    with pytest.raises(BadName, match="cannot be a key"):
        check_key(key)


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\\b", "c:/x", "a\0", "x" * 256, "\ud800"]
)
def test_storage_refuses_paths_that_leave_it(path, tmp_path):
    """No storage call takes a path that is absolute, climbs, or is not one name after another."""
    storage = LocalStorage(tmp_path / "store")
    for call in (
        storage.read,
        storage.exists,
        lambda p: storage.create(p, b""),
        lambda p: storage.delete([p]),
    ):
        with pytest.raises(BadName):
            call(path)
    with pytest.raises(BadName):
        check_relative(path)


def test_fresh_paths_differ_and_sort_by_time():
    """Fresh paths never repeat and begin with the time, so that listings are in order of age."""
    paths = {fresh("features/x") for _ in range(1000)}
    assert len(paths) == 1000
    assert all(len(path.removeprefix("features/x/")) == 20 for path in paths)
