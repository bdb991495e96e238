"""`mer-zoo models`."""

from typing import Any

import click

from mer_cli.app import command, emit
from mer_cli.zoo_options import shown


@command("models")
def models() -> None:
    """List fusion models: what they take, their parameters with defaults, and where they come from."""
    from mer_zoo import registry

    cards = registry.models().values()
    document = [
        {
            "name": card.name,
            "summary": card.summary,
            "paper": card.paper,
            "params": dict(card.params),
            "search": {name: list(values) for name, values in card.search.items()},
            "frames": card.frames,
            "modalities": list(card.modalities),
        }
        for card in cards
    ]
    emit(document, lambda: _print(document))


def _print(cards: list[dict[str, Any]]) -> None:
    for card in cards:
        reads = "frames or vectors" if card["frames"] else "vectors (frames are averaged)"
        click.echo(f"{click.style(card['name'], bold=True)}: {card['summary']}")
        click.echo(f"    {card['paper']}; reads {reads}")
        click.echo(f"    {shown(card['params'])}")
    if not cards:
        click.echo("no models: the plugin that brings them is disabled")
