"""The options of `mer-zoo align`: which clips, how a head is trained, and how an encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.params import Names, Pair, names_option

if TYPE_CHECKING:
    from mer_plugins.contract import Options
    from mer_zoo.alignment import AlignSettings, EncoderSettings

Command = TypeVar("Command", bound=Callable[..., Any])

_CLIPS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--split", "splits", type=Names(), default="unlabeled", show_default=True, help="Clips that train."
    ),
    click.option(
        "--held-out", default="", metavar="SPLIT", help="Measure on it. [default: a fifth of the groups]"
    ),
    click.option(
        "--group-by",
        type=click.Choice(["auto", "speaker", "group", "none"]),
        default="auto",
        show_default=True,
        help="What is never both in training and held out.",
    ),
    click.option("--labels", default="", metavar="LAYER", help="Derive the space and probe both by it."),
    click.option(
        "--judge", default="", metavar="LAYER", help="Knows held-out clips' classes: retrieval by class."
    ),
)
_HEAD: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--loss", type=click.Choice(["infonce", "cosine", "mse"]), default="infonce", show_default=True
    ),
    click.option(
        "--hidden", default=0, show_default=True, help="Width of a hidden layer; 0: one affine map."
    ),
    click.option("--epochs", default=100, show_default=True, help="At most."),
    click.option("--patience", default=15, show_default=True, help="Epochs without a better validation."),
    click.option("--batch-size", default=256, show_default=True),
    click.option("--lr", default=1e-3, show_default=True),
    click.option("--weight-decay", default=1e-2, show_default=True),
    click.option("--dropout", default=0.3, show_default=True, help="On the visual features."),
    click.option("--temperature", default=0.07, show_default=True, help="Where InfoNCE starts."),
    click.option("--seed", default=0, show_default=True),
)
_ENCODER: tuple[Callable[[Any], Any], ...] = (
    click.option("--encoder", is_flag=True, help="Adapt plugin VISUAL itself, from media; options below."),
    click.option(
        "--method",
        type=click.Choice(["lora", "dora", "bottleneck", "last", "full"]),
        default="lora",
        show_default=True,
    ),
    click.option("--layers", default="all", show_default=True, help="To adapt: all, best, k or i-j."),
    click.option("--rank", default=8, show_default=True, help="Of LoRA and DoRA."),
    names_option("--targets", "targets", "Endings of module names that get LoRA, e.g. q_proj,v_proj."),
    click.option("--bottleneck", default=64, show_default=True, help="Width of bottleneck adapters."),
    click.option("--encoder-epochs", default=10, show_default=True, help="At most."),
    click.option("--encoder-patience", default=3, show_default=True),
    click.option("--encoder-batch-size", default=16, show_default=True, help="Clips in a forward pass."),
    click.option("--encoder-lr", default=1e-4, show_default=True),
    click.option("--head-lr", default=1e-4, show_default=True, help="While the encoder is adapted."),
    click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more computing."),
    click.option(
        "--quantize", type=click.Choice(["none", "4bit", "8bit"]), default="none", show_default=True
    ),
    click.option("--model", metavar="PATH|ID", help="Checkpoint: a local folder or a hub id."),
    click.option("--revision", metavar="REV", help="Revision of a hub checkpoint."),
    click.option("--rows", metavar="WHICH", help="Layers rows are read from, as --layers of extract."),
    click.option(
        "--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="An option of the plugin."
    ),
    click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Folder of checkpoints."),
    click.option("--restart", is_flag=True, help="Begin anew, not where it was interrupted."),
)
_OF_SETTINGS = (
    "loss", "hidden", "epochs", "patience", "batch_size", "lr", "weight_decay", "dropout", "temperature",
    "seed",
)  # fmt: skip
_AS_NAMED = ("method", "layers", "rank", "bottleneck", "head_lr", "gradient_checkpointing")
_PREFIXED = ("epochs", "patience", "batch_size", "lr")


def align_options(function: Command) -> Command:
    """Add the options that the readers below take out again; the rest says which clips."""
    for option in reversed((*_CLIPS, *_HEAD, *_ENCODER)):
        function = option(function)
    return function


def read_align_settings(said: dict[str, Any]) -> "AlignSettings":
    """Take out of `said` how a head is trained."""
    from mer_zoo.alignment import AlignSettings

    return AlignSettings(**{name: said.pop(name) for name in _OF_SETTINGS})


def read_encoder_settings(said: dict[str, Any]) -> "EncoderSettings":
    """Take out of `said` how an encoder is adapted."""
    from mer_zoo.alignment import EncoderSettings

    return EncoderSettings(
        **{name: said.pop(name) for name in _AS_NAMED},
        **{name: said.pop(f"encoder_{name}") for name in _PREFIXED},
        targets=said.pop("targets") or (),
        quantize=said.pop("quantize").replace("none", ""),
    )


def read_extractor_options(said: dict[str, Any]) -> "Options":
    """Take out of `said` what is for the extractor."""
    from mer_plugins.contract import Options

    told = {name: said.pop(name) for name in ("model", "revision")}
    return Options(**told, layers=said.pop("rows"), extra=dict(said.pop("extra")))


def refuse_encoder_options() -> None:
    """Refuse what was said of the encoder where stored features are aligned and it is not looked at."""
    from click.core import ParameterSource

    context = click.get_current_context()
    names = (*_AS_NAMED, *(f"encoder_{name}" for name in _PREFIXED))
    names += ("targets", "quantize", "model", "revision", "rows", "extra", "work", "restart")
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if given:
        told = ", ".join("--" + name.replace("extra", "option").replace("_", "-") for name in given)
        raise click.UsageError(f"{told} goes with --encoder; without it stored features are aligned")
