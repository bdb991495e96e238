"""Every hook a plugin can implement, on one screen.

A plugin is a module (or object) named by an entry point of the group `mer_plugins`; the built-ins come in
by the same door. Hooks return light cards: heavy packages are imported when a card is used, never when it is
listed.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from mer_plugins.contract import ExtractorCard

NAMESPACE = "mer_plugins"
hookspec = pluggy.HookspecMarker(NAMESPACE)
hookimpl = pluggy.HookimplMarker(NAMESPACE)


@hookspec
def mer_extractors() -> Iterable["ExtractorCard"]:  # type: ignore[empty-body]  # a specification has no body
    """Return the cards of the extractors this plugin offers."""


@hookspec
def mer_models() -> Iterable[Any]:  # type: ignore[empty-body]  # a specification has no body
    """Return the cards (`mer_zoo.contract.ModelCard`) of the fusion models this plugin offers."""


@hookspec
def mer_votes() -> Iterable[Any]:  # type: ignore[empty-body]  # a specification has no body
    """Return the ways of voting on pseudo-labels (`mer_zoo.ballots.Vote`) this plugin offers."""


@hookspec
def mer_selections() -> Iterable[Any]:  # type: ignore[empty-body]  # a specification has no body
    """Return the ways of selecting pseudo-labels (`mer_zoo.ballots.Select`) this plugin offers."""
