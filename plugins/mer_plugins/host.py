"""The plugin host: who offers what.

Plugins are entry points of the group `mer_plugins`; the built-ins are two of them. A plugin that cannot be
loaded, or whose hook fails, is skipped and reported; `MER_DISABLE_PLUGINS=a,b` (or `--no-plugin a`) leaves
plugins out. A name offered twice belongs to nobody until one of its owners is disabled.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from mer_featurestore.errors import UnknownName, suggest
from mer_plugins import hookspecs
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import PluginError
from mer_plugins.settings import check_options

GROUP = "mer_plugins"
DISABLE = "MER_DISABLE_PLUGINS"


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that was skipped: its name, where it is from, and why."""

    plugin: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.plugin!r} ({self.origin}) is skipped: {self.reason}; "
            f"silence this with --no-plugin {self.plugin} or {DISABLE}={self.plugin}"
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """A card and the plugin that offers it."""

    card: Any
    plugin: str
    origin: str


@dataclass(slots=True)
class Host:
    """What all plugins offer; `host()` makes it.

    Attributes:
        manager: pluggy's manager, for calling other hooks.
        broken: Plugins that were skipped.
        disabled: Names that were left out.
    """

    manager: pluggy.PluginManager
    origins: dict[str, str] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    disabled: frozenset[str] = frozenset()

    def offers(self, hook: str) -> dict[str, list[Offer]]:
        """Call one of our hooks plugin by plugin: card name -> who offers it."""
        found: dict[str, list[Offer]] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            for card in self._cards(plugin, implementation.function):
                found.setdefault(card.name, []).append(Offer(card, plugin, self.origins[plugin]))
        return found

    def _cards(self, plugin: str, function: Any) -> Iterator[Any]:
        try:
            cards = list(function())
            names = [card.name for card in cards]
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way; the others go on
            self._skip(plugin, error)
        else:
            yield from (card for card, name in zip(cards, names, strict=True) if isinstance(name, str))

    def _skip(self, plugin: str, error: Exception) -> None:
        broken = Broken(plugin, self.origins[plugin], f"{type(error).__name__}: {error}")
        if broken not in self.broken:
            self.broken.append(broken)


def host() -> Host:
    """Return the host, loading every plugin that is not disabled; loaded once per set of disabled names."""
    return _load(disabled_plugins())


def reload() -> None:
    """Look for plugins anew at the next use."""
    _load.cache_clear()


def disabled_plugins() -> frozenset[str]:
    """Return the names in the environment variable MER_DISABLE_PLUGINS."""
    return frozenset(name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip())


def extractor_cards() -> dict[str, ExtractorCard]:
    """Return every extractor that can be used, by name; a name offered twice is left out."""
    return {name: offers[0].card for name, offers in _extractors().items() if len(offers) == 1}


def model_cards() -> dict[str, Any]:
    """Return every fusion model (`mer_zoo.contract.ModelCard`) that can be used, by name."""
    return cards("mer_models")


def cards(hook: str) -> dict[str, Any]:
    """Return what a hook (`mer_models`, `mer_votes` …) offers, by name; a name offered twice is left out."""
    return {name: offered[0].card for name, offered in host().offers(hook).items() if len(offered) == 1}


def clashes() -> dict[str, list[Offer]]:
    """Return the names of anything that several plugins claim."""
    each = (_extractors(), *(host().offers(hook) for hook in ("mer_models", "mer_votes", "mer_selections")))
    return {name: offered for offers in each for name, offered in offers.items() if len(offered) > 1}


def find_extractor(name: str) -> ExtractorCard:
    """Return the card of an extractor.

    Raises:
        UnknownName: Nobody offers it; broken plugins are named, since one of them may be meant.
        PluginError: Two plugins claim the name.
    """
    card: ExtractorCard = _find("extractor", name, _extractors())
    return card


def find_model(name: str) -> Any:
    """Return the card of a fusion model; raises as `find_extractor` does."""
    return find("model", "mer_models", name)


def find(what: str, hook: str, name: str) -> Any:
    """Return one card of a hook; `what` it is called in messages. Raises as `find_extractor` does."""
    return _find(what, name, host().offers(hook))


def missing_packages(card: ExtractorCard) -> list[str]:
    """Return the import names the extractor needs and this environment lacks; imports nothing."""
    return [name for name in card.requires if not _importable(name)]


def describe_extractors() -> list[dict[str, Any]]:
    """Return what is known of every extractor, as JSON, in the order in which they are offered."""
    return [
        {
            "name": card.name,
            "modality": card.modality,
            "levels": list(card.levels),
            "summary": card.summary,
            "plugin": offer.plugin,
            "origin": offer.origin,
            "requires": list(card.requires),
            "missing": missing_packages(card),
            "install": card.install,
            "model": card.model,
            "needs_model": card.needs_model,
            "layers": card.layers,
            "adapter": card.adapter,
            "options": {name: {"default": d, "help": h} for name, (d, h) in card.options.items()},
        }
        for offers in _extractors().values()
        if len(offers) == 1
        for offer in offers
        for card in [offer.card]
    ]


def make_extractor(card: ExtractorCard, options: Options) -> Extractor[Any]:
    """Build an extractor from what the user said.

    Raises:
        PluginError: A package is missing, or an option makes no sense for it.
        UnknownName: An option it does not have.
    """
    missing = missing_packages(card)
    if missing:
        names = ", ".join(missing)
        raise PluginError(
            f"{card.name} needs {names}, not installed here", card.install or f"install {names}"
        )
    check_options(card, options)
    if options.adapter is None:
        if options.others:
            raise PluginError("there are no folds that others could be outside of", "leave --others out")
        return card.build(options)
    from mer_plugins.oof import with_adapter

    return with_adapter(card.build, options)


def _extractors() -> dict[str, list[Offer]]:
    loaded = host()
    offers = loaded.offers("mer_extractors")
    for offered in offers.values():
        for offer in [o for o in offered if not isinstance(o.card, ExtractorCard)]:
            loaded._skip(offer.plugin, TypeError(f"{offer.card!r} is not an ExtractorCard"))  # noqa: SLF001 - own class
            offered.remove(offer)
    return {name: offered for name, offered in offers.items() if offered}


def _find(what: str, name: str, offers: dict[str, list[Offer]]) -> Any:
    if name not in offers:
        hint = suggest(name, offers)
        broken = "; ".join(str(b) for b in host().broken)
        raise UnknownName(what, name, offers, f"{hint}; {broken}" if broken else hint)
    if len(offers[name]) > 1:
        owners = " and ".join(f"plugin {o.plugin!r} ({o.origin})" for o in offers[name])
        raise PluginError(
            f"{what} {name!r} is offered by {owners}", f"leave one out: --no-plugin {offers[name][-1].plugin}"
        )
    return offers[name][0].card


@cache
def _load(disabled: frozenset[str]) -> Host:
    manager = pluggy.PluginManager(hookspecs.NAMESPACE)
    manager.add_hookspecs(hookspecs)
    loaded = Host(manager, disabled=disabled)
    for entry in _entries():
        name = _free_name(entry.name, loaded.origins)
        if disabled & {entry.name, name}:
            continue
        loaded.origins[name] = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            manager.register(entry.load(), name)
        except Exception as error:  # noqa: BLE001 - whatever a plugin's import raises must not take the others down
            loaded._skip(name, error)  # noqa: SLF001 - own class
    return loaded


def _entries() -> Iterable[EntryPoint]:
    """Return the group's entry points in a stable order, each once."""
    return sorted(set(entry_points(group=GROUP)), key=lambda entry: (entry.name, entry.value))


def _free_name(name: str, taken: Iterable[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
