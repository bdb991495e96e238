"""The options that say how members are trained, for commands that train many."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mer_zoo.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--epochs", default=100, show_default=True, help="At most."),
    click.option("--patience", default=20, show_default=True, help="Epochs without a higher validation WAF."),
    click.option("--batch-size", default=32, show_default=True),
    click.option("--lr", default=1e-3, show_default=True),
    click.option("--weight-decay", default=1e-5, show_default=True),
    click.option("--class-weights", is_flag=True, help="Let rare classes count more."),
    click.option("--label-smoothing", default=0.0, show_default=True),
)
_NAMES = ("epochs", "patience", "batch_size", "lr", "weight_decay", "class_weights", "label_smoothing")


def settings_options(function: Command) -> Command:
    """Add the options of `mer_zoo.settings.Settings`; `read_settings` takes them out again."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_settings(options: dict[str, Any]) -> "Settings":
    """Take the options out of `options` and return what they say."""
    from mer_zoo.settings import Settings

    return Settings(**{name: options.pop(name) for name in _NAMES})
