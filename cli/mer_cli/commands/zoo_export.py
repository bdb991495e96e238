"""`mer-zoo export`."""

from pathlib import Path

import click

from mer_cli.app import at_option, command, emit, open_store, store_option


@command("export")
@click.argument("run")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), required=True, help="An empty or new folder."
)
@store_option
@at_option
def export(run: str, folder: Path, store_url: str, at: int | None) -> None:
    """Write a run's weights (safetensors), its configuration, and a model card that says how to load it."""
    from mer_zoo.export import export_run

    written = export_run(open_store(store_url, at), run, folder)
    emit([str(path) for path in written], lambda: click.echo("\n".join(f"wrote {path}" for path in written)))
