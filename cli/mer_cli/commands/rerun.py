"""`mer-zoo rerun`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.progress import progress
from mer_cli.zoo_options import print_notices, print_scores

if TYPE_CHECKING:
    from mer_zoo.rerun import Rerun


@command("rerun")
@click.argument("run")
@store_option
@click.option("--as", "name", metavar="NAME", help="Name of the new run; by default MODEL-1, MODEL-2 …")
@click.option("--device", metavar="NAME", help="cpu, cuda …; by default that of the run.")
def rerun(run: str, store_url: str, name: str | None, device: str | None) -> None:
    """Train a run again from its configuration, on the store as it was then, and compare the two."""
    from mer_zoo.rerun import rerun as run_again

    with progress(f"training {run} again") as report:
        found = run_again(
            open_store(store_url),
            run,
            name=name,
            device=device,
            progress=lambda told: report(told.done, told.total),
            command=command_line(),
        )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Rerun") -> None:
    print_notices(found.result.notices)
    print_scores(f"run {found.result.name!r}", found.result.scores)
    if found.identical:
        click.echo(f"predictions are those of {found.of}, to the bit")
    else:
        click.echo(f"predictions differ from those of {found.of} by up to {found.difference:.2g}")
    for what, (then, now) in found.changed.items():
        click.echo(f"{what} was {then} and is {now}")
