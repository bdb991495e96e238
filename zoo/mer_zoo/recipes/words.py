"""Command lines with placeholders: `{name}`, `{*name}` for several words, `[…]` for what may be left out."""

import re
import shlex
from collections.abc import Mapping, Sequence

from mer_zoo.errors import ZooError

PLACEHOLDER = re.compile(r"\{(\*?)([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(text: str) -> list[str]:
    """Return the names a template uses, in order."""
    return [name for _, name in PLACEHOLDER.findall(text)]


def fill_text(text: str, values: Mapping[str, str | None]) -> str:
    """Fill the placeholders of one word."""
    return PLACEHOLDER.sub(lambda found: _value(found[2], values), text)


def fill_line(template: str, values: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the words of a command line.

    The template is divided into words first and filled afterwards, so that a path with spaces stays one word
    and no value is ever read by a shell. A part in square brackets is left out when a setting in it is empty.

    Args:
        template: As a recipe writes it.
        values: Name -> value; None is one that must be given and was not.

    Raises:
        ZooError: Such a value is needed, or the template's quotes or brackets do not match.
    """
    words: list[str] = []
    for group, optional in _groups(template):
        names = [name for word in group for name in placeholders(word)]
        if optional and not all(values[name] for name in names):
            continue
        for word in group:
            several = PLACEHOLDER.fullmatch(word)
            if several is not None and several[1]:
                words += _split(_value(several[2], values))
            else:
                words.append(fill_text(word, values))
    return tuple(words)


def _groups(template: str) -> list[tuple[Sequence[str], bool]]:
    """Divide a template into groups of words, each with whether it is in square brackets."""
    groups: list[tuple[list[str], bool]] = []
    inside = False
    for word in _split(template):
        opens, closes = word.startswith("["), word.endswith("]")
        if (opens and inside) or (closes and not (inside or opens)):
            raise ZooError(f"square brackets do not match in: {template}", "write [--option {setting}]")
        if opens:
            groups.append(([], True))
        elif not inside:
            groups.append(([], False))
        groups[-1][0].append(word[opens : len(word) - closes])
        inside = (inside or opens) and not closes
    if inside:
        raise ZooError(f"a square bracket is never closed in: {template}", "write [--option {setting}]")
    return [(words, optional) for words, optional in groups]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ZooError(f"{error} in: {text}", "close the quotation mark") from None


def _value(name: str, values: Mapping[str, str | None]) -> str:
    value = values[name]
    if value is None:
        raise ZooError(f"the setting {name} must be given", f"add --set {name}=VALUE")
    return value
