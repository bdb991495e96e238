"""`mer-zoo submit`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer_cli.app import command, emit, open_store, store_option
from mer_cli.params import Names
from mer_cli.zoo_options import device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.submit import Submission

SHOWN = 10


@command("submit")
@click.argument("run", metavar="RUN|LAYER")
@store_option
@click.option(
    "--to", "path", type=click.Path(path_type=Path, dir_okay=False), required=True, help="CSV file."
)
@click.option("--split", default="test", show_default=True, help="Whose clips; each gets a row.")
@click.option(
    "--rows",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CSV",
    help="The challenge's list, with a column name: these clips, in this order, instead of the split's.",
)
@click.option(
    "--format", "form", default="mer2024", show_default=True, metavar="NAME", help="Which challenge's."
)
@click.option("--columns", type=Names(), metavar="NAME,EMOTION", help="Names of the two columns instead.")
@click.option("--fallback", metavar="CLASS", help="For clips without features; by default the commonest.")
@device_option
def submit(
    run: str,
    store_url: str,
    path: Path,
    split: str,
    rows: Path | None,
    form: str,
    columns: tuple[str, ...] | None,
    fallback: str | None,
    device: str,
) -> None:
    """Write the CSV a challenge wants: a class for every clip of a split, by key.

    Of a run, or of a label layer, such as a vote of several runs by `mer-zoo pseudo-label --threshold 0`.
    """
    from mer_zoo.submit import submit as write_submission

    if columns is not None and len(columns) != 2:
        raise click.BadParameter("give two names, e.g. name,emotion", param_hint="--columns")
    found = write_submission(
        open_store(store_url),
        run,
        path,
        split,
        rows=rows,
        form=form,
        columns=None if columns is None else (columns[0], columns[1]),
        fallback=fallback,
        device=device,
    )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Submission") -> None:
    if found.fell_back:
        some = ", ".join(found.fell_back[:SHOWN]) + (" …" if len(found.fell_back) > SHOWN else "")
        clips = plural(len(found.fell_back), "clip")
        print_notices([f"{clips} without any of the run's features written as {found.fallback!r}: {some}"])
    counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
    click.echo(f"wrote {plural(found.rows, 'row')} to {found.path}: {counts}")
