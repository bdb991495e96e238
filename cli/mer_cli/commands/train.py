"""`mer-zoo train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Names, Pair
from mer_cli.progress import progress
from mer_cli.zoo_options import device_option, print_notices, print_scores

if TYPE_CHECKING:
    from mer_zoo.train import RunResult

SETTINGS = (
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "patience",
    "class_weights",
    "label_smoothing",
)


@command("train")
@click.argument("model")
@store_option
@click.option(
    "--features", type=Names(), help="Spaces, one per modality; by default the only ones there are."
)
@click.option("--labels", metavar="LAYER", help="Label layer; by default gold, or the only one.")
@click.option("--as", "name", metavar="NAME", help="Name of the run; by default MODEL-1, MODEL-2 …")
@click.option("--folds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--param", "params", type=Pair("name=value", "hidden=64"), multiple=True, help="A parameter of the model."
)
@click.option("--epochs", default=100, show_default=True, help="At most.")
@click.option("--patience", default=20, show_default=True, help="Epochs without a higher validation WAF.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--weight-decay", default=1e-5, show_default=True)
@click.option("--class-weights", is_flag=True, help="Let rare classes count more.")
@click.option("--label-smoothing", default=0.0, show_default=True)
@click.option(
    "--level", type=click.Choice(["utt", "frame"]), help="Level of the default spaces. [default: utt]"
)
@click.option("--max-frames", type=int, help="Thin longer sequences out to this many frames.")
@click.option("--split", default="train", show_default=True, help="Whose human labels may be seen.")
@click.option(
    "--group-by",
    type=click.Choice(["auto", "speaker", "group", "none"]),
    default="auto",
    show_default=True,
    help="What no fold may divide; auto: speakers and groups, where given.",
)
@click.option("--standardise/--no-standardise", default=True, show_default=True, help="By the training part.")
@click.option("--soft-labels", is_flag=True, help="Train on pseudo-labels' probabilities.")
@click.option("--confidence-weights", is_flag=True, help="Let pseudo-labels count by their confidence.")
@click.option(
    "--strict", is_flag=True, help="Refuse what is only noted otherwise: labels or copies that leak."
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write event files for TensorBoard there.",
)
@device_option
def train(model: str, store_url: str, params: tuple[tuple[str, str], ...], **options: Any) -> None:
    """Train a model over K folds from the features in the store, and keep it as a run.

    The scores printed are those of the out-of-fold predictions; test clips are not touched.
    """
    from mer_zoo.settings import Settings
    from mer_zoo.train import train as train_run

    settings = Settings(**{setting: options.pop(setting) for setting in SETTINGS})
    with progress(f"training {model}") as report:
        result = train_run(
            open_store(store_url),
            model,
            params=dict(params),
            settings=settings,
            progress=lambda told: report(told.done, told.total),
            command=command_line(),
            **options,
        )
    emit(result.to_json(), lambda: _print(result))


def _print(result: "RunResult") -> None:
    print_notices(result.notices)
    labels = f"{result.human} labelled + {result.pseudo} pseudo-labelled clips"
    click.echo(f"run {result.name!r}: {labels}, {result.folds} folds, {result.seconds:.1f} s")
    print_scores("out of fold", result.scores)
    spread = ", ".join(f"{name} {m['mean']:.4f} ± {m['std']:.4f}" for name, m in result.mean.items())
    click.echo(f"mean over folds: {spread}")
