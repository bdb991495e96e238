"""Votes and selections by name, the built-in ones and those of plugins, through two hooks."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from mer_featurestore.errors import UnknownName
from mer_plugins import host
from mer_zoo.ballots import Select, Vote
from mer_zoo.errors import ZooError

Strategy = TypeVar("Strategy", Vote, Select)


def votes() -> dict[str, Vote]:
    """Return every way of voting that can be used, by name."""
    return host.cards("mer_votes")


def selections() -> dict[str, Select]:
    """Return every way of selecting that can be used, by name."""
    return host.cards("mer_selections")


def find_vote(name: str) -> Vote:
    """Return a way of voting.

    Raises:
        UnknownName: There is none of that name.
        PluginError: Two plugins offer it.
    """
    found: Vote = host.find("vote", "mer_votes", name)
    return found


def find_selection(name: str) -> Select:
    """Return a way of selecting; raises as `find_vote` does."""
    found: Select = host.find("selection", "mer_selections", name)
    return found


def complete(strategy: Strategy, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return all parameters of a strategy, those given over its defaults.

    Text is read as JSON where the default is no text itself, so that `0.8`, `true` and `{"sad": 0.2}` can be
    typed.

    Raises:
        UnknownName: It has no such parameter.
        ZooError: A value of another kind than the default.
    """
    for name in given or {}:
        if name not in strategy.params:
            what = "vote" if isinstance(strategy, Vote) else "selection"
            raise UnknownName(f"parameter of the {what} {strategy.name}", name, strategy.params)
    typed = {name: _typed(strategy, name, value) for name, value in (given or {}).items()}
    return {**strategy.params, **typed}


def _typed(strategy: Strategy, name: str, value: Any) -> Any:
    default = strategy.params[name]
    if isinstance(value, str):
        value = _read(value)
    kinds: dict[type, tuple[type, ...]] = {
        bool: (bool,),
        int: (int,),
        float: (int, float),
        str: (str, Mapping),
    }
    wanted = kinds.get(type(default), (Mapping,))
    if default is None and value is None:
        return None
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        example = json.dumps(default) if default is not None else '{"name": 0.5}'
        raise ZooError(f"parameter {name} of {strategy.name} is {value!r}", f"give something like {example}")
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
