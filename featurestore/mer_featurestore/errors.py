"""Errors a user can cause: each says what, where, and the remedy."""

import difflib
from collections.abc import Iterable
from typing import Any

RESTORE = "restore it from a copy, or remove and make it again; `mer-fs verify` lists all damage"
"""What to do about damaged data."""


class MerError(Exception):
    """Base of every error of this project that is meant for a person.

    Args:
        message: What went wrong and where, without a final full stop.
        remedy: What to do about it, as a sentence fragment; empty when there is nothing to say.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take other arguments than the two that are kept; errors must come back from workers.
        return _rebuilt, (type(self), self.message, self.remedy)


class StoreError(MerError):
    """The store, or something asked of it, is not as it should be."""


class NotAStore(StoreError):
    """There is no store at that place, or it is of a newer format."""


class UnknownName(StoreError, KeyError):
    """Nothing of that name; the message offers the nearest names."""

    def __init__(self, what: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        super().__init__(f"no {what} named {name!r}", remedy or suggest(name, known))


class UnknownKey(UnknownName):
    """A feature space does not have these clips; the message says how to get them."""

    def __init__(self, message: str, remedy: str = "") -> None:
        MerError.__init__(self, message, remedy)


class NameTaken(StoreError):
    """Immutable things are named once."""


class BadName(StoreError, ValueError):
    """A name or key that cannot be stored safely."""


class FingerprintMismatch(StoreError):
    """Two configurations claim one feature space; the message shows the differing fields side by side."""


class Damaged(StoreError):
    """Bytes in the store are not what was committed; the message names the file."""


class BadInput(StoreError, ValueError):
    """Input data (a CSV, a folder, an array) that does not have the form it must have."""


def _rebuilt(kind: type[MerError], message: str, remedy: str) -> MerError:
    error = kind.__new__(kind)
    MerError.__init__(error, message, remedy)
    return error


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?", or the names there are, for the remedy of an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not names:
        return "there are none yet"
    return "there are: " + ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
