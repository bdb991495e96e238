"""The options that say how a round of pseudo-labels is decided."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.params import Pair, names_option
from mer_cli.zoo_options import calibrate_option

if TYPE_CHECKING:
    from mer_zoo.rules import Rules

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--threshold", type=float, metavar="P", help="Keep clips surer than this. [default: 0.9]"),
    click.option(
        "--class-threshold",
        "class_thresholds",
        type=Pair("class=p", "worried=0.85"),
        multiple=True,
        help="Another threshold for a class (means --select per-class).",
    ),
    click.option("--select", metavar="NAME", help="Which clips are kept. [default: threshold]"),
    click.option(
        "--select-param",
        "select_params",
        type=Pair("name=value", "precision=0.95"),
        multiple=True,
        help="A parameter of the selection.",
    ),
    click.option("--vote", metavar="NAME", help="How members vote. [default: soft]"),
    click.option(
        "--vote-param",
        "vote_params",
        type=Pair("name=value", "smoothing=2"),
        multiple=True,
        help="A parameter of the vote.",
    ),
    click.option(
        "--expert",
        "experts",
        multiple=True,
        metavar="RUN",
        help="A member that is heard more (means --vote weighted).",
    ),
    names_option("--expert-classes", "expert_classes", "For these classes."),
    click.option("--expert-weight", default=2.0, show_default=True, help="How much more."),
    calibrate_option("none"),
)


def round_options(function: Command) -> Command:
    """Add the options of `mer_zoo.rules.make_rules`; `read_rules` takes them from what the command gets."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_rules(options: dict[str, Any]) -> "Rules":
    """Take the options out of `options` and return what they say."""
    from mer_zoo.rules import make_rules

    names = ("threshold", "select", "vote", "experts", "expert_classes", "expert_weight", "calibrate")
    given: dict[str, Any] = {name: options.pop(name) for name in names}
    for name in ("class_thresholds", "select_params", "vote_params"):
        given[name] = dict(options.pop(name))
    return make_rules(**given)
