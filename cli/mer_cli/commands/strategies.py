"""`mer-zoo strategies`."""

from typing import Any

import click

from mer_cli.app import command, emit
from mer_cli.zoo_options import shown


@command("strategies")
def strategies() -> None:
    """List the ways of voting and selecting of `mer-zoo pseudo-label`, with parameters and defaults."""
    from mer_zoo import strategies as known

    document = {
        what: [{"name": c.name, "summary": c.summary, "params": dict(c.params)} for c in cards.values()]
        for what, cards in (("vote", known.votes()), ("select", known.selections()))
    }
    emit(document, lambda: _print(document))


def _print(document: dict[str, list[dict[str, Any]]]) -> None:
    for what, cards in document.items():
        for card in cards:
            click.echo(f"--{what} {click.style(card['name'], bold=True)}: {card['summary']}")
            if card["params"]:
                click.echo(f"    {shown(card['params'])}")
