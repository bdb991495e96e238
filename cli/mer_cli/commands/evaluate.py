"""`mer-zoo evaluate`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.zoo_options import device_option, print_confusion, print_notices, print_scores

if TYPE_CHECKING:
    from mer_zoo.evaluate import Evaluation


@command("evaluate")
@click.argument("run")
@store_option
@click.option("--split", default="test", show_default=True, help="Whose clips.")
@click.option("--labels", metavar="LAYER", help="Label layer; by default gold, or the only one.")
@device_option
def evaluate(run: str, store_url: str, split: str, labels: str | None, device: str) -> None:
    """Score a run on the human labels of a split, and put the score on record in the journal.

    Labels of test clips are read only by this command, compare and report, each time on record.
    """
    from mer_zoo.evaluate import evaluate as evaluate_run

    found = evaluate_run(open_store(store_url), run, split, labels, device=device, command=command_line())
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Evaluation") -> None:
    if found.missing:
        count = len(found.missing)
        print_notices([f"{count} labelled clips have none of the run's features and were not scored"])
    print_notices(found.notices)
    print_scores(f"{found.run} on {found.split} ({found.labels})", found)
    print_confusion(found)
    click.echo(f"on record as {found.record}")
