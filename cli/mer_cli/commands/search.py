"""`mer-zoo search`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Pair
from mer_cli.progress import progress
from mer_cli.search_view import print_trials
from mer_cli.training_options import data_options, precision_option
from mer_cli.zoo_options import device_option, print_notices, print_scores
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.search import SearchResult


@command("search")
@click.argument("model")
@store_option
@click.option("--trials", default=50, show_default=True, help="Draws; the same draw twice is trained once.")
@click.option("--sampler", type=click.Choice(["random", "tpe"]), default="random", show_default=True)
@click.option("--prune", is_flag=True, help="Train only the most promising thirds for longer.")
@click.option("--seeds", default=1, show_default=True, help="Seeds that each setting is trained with.")
@click.option(
    "--draw", type=Pair("name=a,b,c", "hidden=64,128"), multiple=True, help="Draw from these values instead."
)
@click.option("--fix", type=Pair("name=value", "lr=0.001"), multiple=True, help="Do not draw this; it is so.")
@data_options
@click.option("--as", "name", metavar="NAME", help="Name of the best setting's run; by default MODEL-1 …")
@click.option("--epochs", default=100, show_default=True, help="At most.")
@click.option("--patience", default=20, show_default=True, help="Epochs without a higher validation WAF.")
@click.option("--class-weights", is_flag=True, help="Let rare classes count more.")
@precision_option
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write event files of the best setting's run there.",
)
@device_option
def search(
    model: str,
    store_url: str,
    draw: tuple[tuple[str, str], ...],
    fix: tuple[tuple[str, str], ...],
    epochs: int,
    patience: int,
    class_weights: bool,
    precision: str,
    **options: Any,
) -> None:
    """Search the settings of a model over its search space, and train the best as a run.

    --trials 50 --folds 5 is the field's recipe: 50 random settings, 5 folds each. Interrupted, the same
    command goes on where it was.
    """
    from mer_zoo.search import search as run_search
    from mer_zoo.settings import Settings

    with progress(f"searching {model}") as report:
        found = run_search(
            open_store(store_url),
            model,
            draw={name: values.split(",") for name, values in draw},
            fix=dict(fix),
            settings=Settings(
                epochs=epochs, patience=patience, class_weights=class_weights, precision=precision
            ),
            progress=report,
            command=command_line(),
            **options,
        )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "SearchResult") -> None:
    print_notices(found.notices)
    document = found.to_json()
    print_trials(document)
    if found.resumed:
        click.echo(f"trained before and not again: {plural(found.resumed, 'setting')}")
    epochs = f"{plural(found.epochs, 'epoch')} of members in all"
    click.echo(f"{epochs}, {found.seconds:.1f} s; on record as {found.name}")
    print_scores(f"run {found.run.name!r}, the best setting, out of fold", found.run.scores)
