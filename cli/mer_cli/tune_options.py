"""The options of `mer-zoo tune`: what is told to the extractor, and how it is tuned."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.params import Pair, names_option

if TYPE_CHECKING:
    from mer_plugins.contract import Options
    from mer_zoo.tuning.settings import TuneSettings

Command = TypeVar("Command", bound=Callable[..., Any])

_EXTRACTOR: tuple[Callable[[Any], Any], ...] = (
    click.option("--model", metavar="PATH|ID", help="Checkpoint: a local folder or a hub id."),
    click.option("--revision", metavar="REV", help="Revision of a hub checkpoint."),
    click.option("--trust-remote-code", is_flag=True, help="Run the code beside the checkpoint's weights."),
    click.option(
        "--rows",
        metavar="WHICH",
        help="Layers rows are read from, as --layers of extract; default: as there.",
    ),
    click.option(
        "--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="An option of the plugin."
    ),
    click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="cpu, cuda."),
)
_METHOD: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--method",
        type=click.Choice(["lora", "dora", "bottleneck", "last", "full"]),
        default="lora",
        show_default=True,
        help="last: the layers' own weights; full: all weights.",
    ),
    click.option("--rank", default=8, show_default=True, help="Of LoRA and DoRA."),
    click.option("--alpha", type=float, help="Their scale. [default: twice the rank]"),
    click.option("--dropout", default=0.05, show_default=True, help="Within the adapter."),
    names_option("--targets", "targets", "Endings of module names that get LoRA, e.g. q_proj,v_proj."),
    click.option("--bottleneck", default=64, show_default=True, help="Width of bottleneck adapters."),
    click.option(
        "--quantize",
        type=click.Choice(["none", "4bit", "8bit"]),
        default="none",
        show_default=True,
        help="Hold the frozen base in so many bits (needs bitsandbytes and a GPU).",
    ),
    click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more computing."),
)
_TRAINING: tuple[Callable[[Any], Any], ...] = (
    click.option("--epochs", default=15, show_default=True, help="At most."),
    click.option(
        "--patience", default=4, show_default=True, help="Epochs without a higher validation score."
    ),
    click.option("--metric", type=click.Choice(["uar", "waf"]), default="uar", show_default=True),
    click.option("--batch-size", default=8, show_default=True, help="Clips in a forward pass."),
    click.option("--accumulate", default=1, show_default=True, help="Forward passes a step."),
    click.option("--lr", type=float, help="Of the adapter. [default: the method's]"),
    click.option("--head-lr", default=1e-3, show_default=True),
    click.option("--weight-decay", default=0.01, show_default=True),
    click.option("--warmup", default=0.1, show_default=True, help="Share of the steps."),
    click.option(
        "--class-weights", type=click.Choice(["balanced", "none"]), default="balanced", show_default=True
    ),
    click.option("--label-smoothing", default=0.0, show_default=True),
    click.option("--soft-labels", is_flag=True, help="Train on pseudo-labels' probabilities."),
    click.option("--confidence-weights", is_flag=True, help="Let pseudo-labels count by their confidence."),
    click.option(
        "--most",
        type=float,
        metavar="N",
        help="Of a long clip: seconds, frames or tokens. [default: family's]",
    ),
    click.option("--pool", type=click.Choice(["mean", "attention"]), default="mean", show_default=True),
    click.option("--head-dropout", default=0.1, show_default=True),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="While training; auto: bfloat16 or float16 on a GPU, else float32.",
    ),
)
_OF_EXTRACTOR = ("model", "revision", "trust_remote_code", "device")
_OF_SETTINGS = (
    "method", "rank", "alpha", "dropout", "targets", "bottleneck", "quantize", "gradient_checkpointing",
    "epochs", "patience", "metric", "batch_size", "accumulate", "lr", "head_lr", "weight_decay", "warmup",
    "class_weights", "label_smoothing", "soft_labels", "confidence_weights", "most", "pool", "head_dropout",
    "precision",
)  # fmt: skip


def tune_options(function: Command) -> Command:
    """Add the options that `read_options` and `read_tune_settings` take out again."""
    for option in reversed((*_METHOD, *_TRAINING, *_EXTRACTOR)):
        function = option(function)
    return function


def read_options(said: dict[str, Any]) -> "Options":
    """Take out of `said` what is for the extractor."""
    from mer_plugins.contract import Options

    told = {name: said.pop(name) for name in _OF_EXTRACTOR}
    return Options(**told, layers=said.pop("rows"), extra=dict(said.pop("extra")))


def read_tune_settings(said: dict[str, Any]) -> "TuneSettings":
    """Take out of `said` how to tune."""
    from mer_zoo.tuning.settings import TuneSettings

    said["targets"] = said["targets"] or ()
    return TuneSettings(**{name: said.pop(name) for name in _OF_SETTINGS})
