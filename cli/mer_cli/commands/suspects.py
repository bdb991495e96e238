"""`mer-zoo suspects`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import command, emit, open_store, store_option, table
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.suspects import Suspect


@command("suspects")
@click.argument("run")
@store_option
@click.option("--limit", default=20, show_default=True, help="Clips to show; --json gives all.")
def suspects(run: str, store_url: str, limit: int) -> None:
    """List human labels that a run's out-of-fold predictions doubt, the most doubted first."""
    from mer_zoo.suspects import suspects as doubted

    found = doubted(open_store(store_url), run)
    emit([suspect.to_json() for suspect in found], lambda: _print(found, limit))


def _print(found: "list[Suspect]", limit: int) -> None:
    rows = [(s.key, s.label, f"{s.own:.3f}", s.taken_for, f"{s.other:.3f}") for s in found[:limit]]
    table("", ["key", "label", "p", "taken for", "p"], rows)
    click.echo(f"doubted: {plural(len(found), 'label')}" + (f", {limit} shown" if len(found) > limit else ""))
