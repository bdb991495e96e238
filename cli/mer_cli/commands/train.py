"""`mer-zoo train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Pair
from mer_cli.progress import progress
from mer_cli.training_options import data_options, read_settings, settings_options
from mer_cli.zoo_options import device_option, print_notices, print_scores
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.train import RunResult


@command("train")
@click.argument("model")
@store_option
@data_options
@click.option("--as", "name", metavar="NAME", help="Name of the run; by default MODEL-1, MODEL-2 …")
@click.option(
    "--param", "params", type=Pair("name=value", "hidden=64"), multiple=True, help="A parameter of the model."
)
@settings_options
@click.option(
    "--warm",
    metavar="RUN",
    help="Go on from the weights of this run, fold by fold: same model, features and folds.",
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
    from mer_zoo.train import train as train_run

    settings = read_settings(options)
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
    labels = f"{result.human} labelled + {plural(result.pseudo, 'pseudo-labelled clip')}"
    click.echo(f"run {result.name!r}: {labels}, {plural(result.folds, 'fold')}, {result.seconds:.1f} s")
    print_scores("out of fold", result.scores)
    spread = ", ".join(f"{name} {m['mean']:.4f} ± {m['std']:.4f}" for name, m in result.mean.items())
    click.echo(f"mean over folds: {spread}")
