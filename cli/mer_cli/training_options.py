"""The options that say what is trained on what and how, for all commands that train."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.params import Names

if TYPE_CHECKING:
    from mer_zoo.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of matrix products while training; bfloat16 is faster where the hardware has it.",
)
_DATA: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--features", type=Names(), help="Spaces, one per modality; by default the only ones there are."
    ),
    click.option("--labels", metavar="LAYER", help="Label layer; by default gold, or the only one."),
    click.option("--folds", default=5, show_default=True),
    click.option("--seed", default=0, show_default=True),
    click.option(
        "--level", type=click.Choice(["utt", "frame"]), help="Level of the default spaces. [default: utt]"
    ),
    click.option("--max-frames", type=int, help="Thin longer sequences out to this many frames."),
    click.option("--split", default="train", show_default=True, help="Whose human labels may be seen."),
    click.option(
        "--group-by",
        type=click.Choice(["auto", "speaker", "group", "none"]),
        default="auto",
        show_default=True,
        help="What no fold may divide; auto: speakers and groups, where given.",
    ),
    click.option(
        "--standardise/--no-standardise", default=True, show_default=True, help="By the training part."
    ),
    click.option("--soft-labels", is_flag=True, help="Train on pseudo-labels' probabilities."),
    click.option("--confidence-weights", is_flag=True, help="Let pseudo-labels count by their confidence."),
    click.option(
        "--strict", is_flag=True, help="Refuse what is only noted otherwise: labels or copies that leak."
    ),
)
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--epochs", default=100, show_default=True, help="At most."),
    click.option("--patience", default=20, show_default=True, help="Epochs without a higher validation WAF."),
    click.option("--batch-size", default=32, show_default=True),
    click.option("--lr", default=1e-3, show_default=True),
    click.option("--weight-decay", default=1e-5, show_default=True),
    click.option("--class-weights", is_flag=True, help="Let rare classes count more."),
    click.option("--label-smoothing", default=0.0, show_default=True),
    precision_option,
)
_NAMES = (
    "epochs",
    "patience",
    "batch_size",
    "lr",
    "weight_decay",
    "class_weights",
    "label_smoothing",
    "precision",
)


def data_options(function: Command) -> Command:
    """Add the options that say which clips, labels and features train, by the names `train` takes them."""
    for option in reversed(_DATA):
        function = option(function)
    return function


def settings_options(function: Command) -> Command:
    """Add the options of `mer_zoo.settings.Settings`; `read_settings` takes them out again."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_settings(options: dict[str, Any]) -> "Settings":
    """Take the options out of `options` and return what they say."""
    from mer_zoo.settings import Settings

    return Settings(**{name: options.pop(name) for name in _NAMES})
