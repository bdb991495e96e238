"""`mer-zoo models`."""

import click

from mer_cli.app import command, emit, table
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
    rows = [
        (
            card.name,
            f"{card.summary} ({card.paper})",
            "utt, frame" if card.frames else "utt (frames are averaged)",
            shown(card.params),
        )
        for card in cards
    ]
    emit(document, lambda: table("", ["model", "what", "reads", "parameters"], rows))
    if not rows:
        click.echo("no models: every plugin is disabled", err=True)
