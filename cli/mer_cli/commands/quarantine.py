"""`mer-fs quarantine`."""

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table


@command("quarantine")
@store_option
@at_option
@click.argument("space", required=False)
def quarantine(store_url: str, at: int | None, space: str | None) -> None:
    """List clips an extraction could not use, and why; of one SPACE or of all."""
    from mer_plugins.plan import quarantined

    found = quarantined(open_store(store_url, at), space)
    rows = [(name, key, reason) for name, clips in found.items() for key, reason in clips.items()]
    emit(
        found,
        lambda: (
            table("", ("space", "key", "reason"), rows) if rows else click.echo("Nothing is in quarantine.")
        ),
    )
