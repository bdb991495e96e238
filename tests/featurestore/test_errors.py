"""Errors for people: what, where, the remedy; and they survive the way back from a worker process."""

import inspect
import pickle

import pytest

from mer_featurestore import errors
from mer_featurestore.errors import BadInput, MerError, UnknownName, suggest

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MerError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[MerError]) -> None:
    """Message, remedy and class come back, whatever arguments the class takes."""
    error = kind("clip", "x", ["y"]) if kind is UnknownName else kind("what and where", "the remedy")  # type: ignore[arg-type,call-arg]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.remedy, str(again)) == (error.message, error.remedy, str(error))


def test_an_error_reads_as_one_sentence() -> None:
    """The remedy follows the message; without one the message stands alone."""
    assert str(BadInput("a.csv is empty", "fill it")) == "a.csv is empty; fill it"
    assert str(BadInput("a.csv is empty")) == "a.csv is empty"


def test_unknown_names_are_key_errors_with_suggestions() -> None:
    """So that `mapping.get` works; near names are offered, else what there is."""
    with pytest.raises(KeyError, match=r"no space named 'prosdy'; did you mean 'prosody'\?"):
        raise UnknownName("space", "prosdy", ["prosody", "face"])
    assert suggest("zzz", ["b", "a"]) == "there are: a, b"
    assert suggest("zzz", []) == "there are none yet"
