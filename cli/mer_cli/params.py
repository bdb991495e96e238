"""Parameter types and options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Names(click.ParamType[tuple[str, ...]]):
    """A comma-separated list of names, e.g. `angry,happy,sad`, as a tuple."""

    name = "a,b,c"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas; an empty name is refused."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


class Pair(click.ParamType[tuple[str, str]]):
    """`LEFT=RIGHT`, as a tuple of two.

    Args:
        form: What is shown in the help, e.g. `field=column`.
        example: One that is right.
        empty: RIGHT may be empty.
    """

    def __init__(
        self, form: str = "field=column", example: str = "text=sentence", *, empty: bool = False
    ) -> None:
        self.name = form
        self.example = example
        self.empty = empty

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        left, sign, right = str(value).partition("=")
        if not (sign and left.strip() and (right.strip() or self.empty)):
            self.fail(f"{value!r} is not of the form {self.name.upper()}, e.g. {self.example}", param, ctx)
        return left.strip(), right.strip()


class Delimiter(click.ParamType[str]):
    """One character; `tab` and a backslash-t mean the tabulator."""

    name = "character"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the character."""
        character = {"tab": "\t", "\\t": "\t"}.get(str(value), str(value))
        if len(character) != 1:
            self.fail(f"{value!r} is not one character", param, ctx)
        return character


def names_option(flag: str, name: str, text: str) -> Callable[[Command], Command]:
    """Add an option that takes `a,b` and may be given several times; the command gets one tuple, or None."""

    def flat(
        _: click.Context, __: click.Parameter, given: tuple[tuple[str, ...], ...]
    ) -> tuple[str, ...] | None:
        return tuple(item for names in given for item in names) or None

    return click.option(flag, name, type=Names(), multiple=True, callback=flat, help=text)


def csv_options(function: Command) -> Command:
    """Add `--column FIELD=COLUMN` and `--delimiter` for reading CSV files people made."""
    function = click.option(
        "--delimiter", type=Delimiter(), default=",", show_default=True, help="What separates cells."
    )(function)
    return click.option(
        "--column",
        "columns",
        type=Pair(),
        multiple=True,
        help="Read a field from a column of another name, e.g. text=sentence.",
    )(function)


def classes_option(function: Command) -> Command:
    """Add `--classes a,b,c`."""
    return click.option(
        "--classes", type=Names(), help="Class names in their order; default: those that occur, sorted."
    )(function)
