"""`mer-fs adapters add`."""

from pathlib import Path

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import names_option


@command("add")
@store_option
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--as", "name", required=True, help="Its name; hubert-large-lora is used by that plugin.")
@click.option(
    "--base", metavar="PATH|ID", help="The checkpoint it was trained on, if its folder does not say."
)
@click.option("--revision", metavar="REV", help="Revision of --base, for a hub id.")
@click.option("--labels", metavar="LAYER", help="The label layer it was trained on.")
@names_option("--split", "split", "It was trained on clips of these splits only; default: all labelled ones.")
@click.option("-m", "--message", default="", help="A word for the log.")
def adapters_add(
    store_url: str,
    folder: Path,
    name: str,
    base: str | None,
    revision: str | None,
    labels: str | None,
    split: tuple[str, ...] | None,
    message: str,
) -> None:
    """Take in the adapter in FOLDER, as save_pretrained of peft or mer-fs adapters export wrote it."""
    from mer_plugins import adapters

    bundle = adapters.add(
        open_store(store_url), folder, name, base=base, revision=revision, labels=labels, split=split,
        command=command_line(), message=message,
    )  # fmt: skip
    card = bundle.json(adapters.CARD)
    emit(card, lambda: click.echo(f"{bundle.entry.ref}: {card['type']} for {card['base']['model'] or '?'}"))
