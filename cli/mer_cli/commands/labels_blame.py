"""`mer-fs labels blame`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mer_cli.app import at_option, command, emit, open_store, store_option

if TYPE_CHECKING:
    from mer_featurestore.label_report import Blame


@command("blame")
@click.argument("key")
@store_option
@at_option
@click.option("--layer", help="Explain the label under this layer; default: the newest that knows it.")
def labels_blame(key: str, store_url: str, at: int | None, layer: str | None) -> None:
    """Show which layer, members and votes gave a clip its label, through all layers below."""
    found = open_store(store_url, at).labels.blame(key, layer)
    emit(asdict(found), lambda: _print(found))


def _print(found: "Blame") -> None:
    outcome = f"{found.label} (decided by {found.decided_by})" if found.label else "no label"
    click.echo(f"{found.key} under {found.layer}: {outcome}")
    for said in found.sayings:
        reason = f"; {said.reason}" if said.reason else ""
        click.echo(
            f"  {said.layer}: {said.label} {said.confidence:.3f}, {said.source}, {said.verdict}{reason}"
        )
        for member, vote in said.votes.items():
            click.echo(f"    {member} voted {vote or '(abstained)'}")
        if said.source == "pseudo":
            likely = sorted(said.probs.items(), key=lambda item: -item[1])[:3]
            click.echo("    " + ", ".join(f"{name} {p:.3f}" for name, p in likely))
