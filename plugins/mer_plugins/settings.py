"""Reading an extractor's own options (`--option name=value`), each mistake named with its remedy."""

from collections.abc import Mapping, Sequence

from mer_featurestore.errors import UnknownName, suggest
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import PluginError


class Settings:
    """The options of one extractor: what the user said, else the defaults of its table."""

    def __init__(self, table: Mapping[str, tuple[str, str]], options: Options) -> None:
        self.said = {name: default for name, (default, _) in table.items()} | dict(options.extra)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return a value that must be one of `choices`."""
        value = self.said[name].strip()
        if value not in choices:
            raise UnknownName(
                f"value of option {name!r}",
                value,
                choices,
                f"{suggest(value, choices)} ({'|'.join(choices)})",
            )
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in `[low, high]`."""
        try:
            value = int(self.said[name])
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Return a number in `[low, high]`."""
        try:
            value = float(self.said[name])
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise self._wrong(name, f"a number from {low:g} to {high:g}")
        return value

    def span(self, name: str, low: int, high: int) -> tuple[int, int]:
        """Return a range `i-j` of whole numbers with `low <= i <= j <= high`; `k` alone is `k-k`."""
        first, _, last = self.said[name].partition("-")
        try:
            span = int(first), int(last or first)
        except ValueError:
            span = (0, -1)
        if not low <= span[0] <= span[1] <= high:
            raise self._wrong(name, f"a range like {low}-{min(low + 2, high)}, at most {low}-{high}")
        return span

    def _wrong(self, name: str, wanted: str) -> PluginError:
        return PluginError(
            f"option {name!r} is {self.said[name]!r}", f"it takes {wanted}: --option {name}=VALUE"
        )


def check_options(card: ExtractorCard, options: Options) -> None:
    """Refuse what this extractor does not take.

    Raises:
        UnknownName: An `--option` it does not have.
        PluginError: `--model`, `--revision`, `--adapter` or `--layers` where they mean nothing, or no
            checkpoint or adapter where it must be given.
    """
    for name in options.extra:
        if name not in card.options:
            raise UnknownName(f"option of {card.name}", name, card.options)
    if options.model and not card.takes_model:
        raise PluginError(f"{card.name} has no checkpoint to choose", "leave --model out")
    if card.needs_model and not options.model:
        raise PluginError(f"{card.name} needs a checkpoint", "name its folder with --model PATH")
    if options.revision and not card.takes_model:
        raise PluginError(f"{card.name} has no checkpoint to pin", "leave --revision out")
    if options.adapter and not card.takes_adapter:
        raise PluginError(f"{card.name} takes no adapter", "leave --adapter out")
    if card.adapter and not options.adapter:
        raise PluginError(
            f"{card.name} is {card.model} with an adapter, and none is given", "say --adapter PATH_OR_NAME"
        )
    if options.trust_remote_code and not card.takes_code:
        raise PluginError(f"{card.name} never runs the code of a checkpoint", "leave --trust-remote-code out")
    if options.layers and not card.layers:
        raise PluginError(
            f"{card.name} has no layers to choose from", "only encoders have them: mer-fs plugins"
        )
