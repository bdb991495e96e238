"""`mer-fs labels export`."""

from pathlib import Path

import click

from mer_cli.app import at_option, command, emit, open_store, store_option
from mer_featurestore.wording import plural


@command("export")
@click.argument("name")
@click.option("--to", "path", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format", "form", default=None, help="csv or mertools; default: by the file's suffix, .csv or .npz."
)
@store_option
@at_option
@click.option("--resolved", is_flag=True, help="Together with the layers it stands on (mertools always is).")
def labels_export(
    name: str, path: Path, form: str | None, store_url: str, at: int | None, resolved: bool
) -> None:
    """Write a layer as CSV (everything, reads back the same) or as the label .npz that MERTools reads."""
    from mer_featurestore.interchange.label_export import export_labels

    count = export_labels(open_store(store_url, at), name, path, form=form, resolved=resolved)
    emit({"file": str(path), "rows": count}, lambda: click.echo(f"wrote {plural(count, 'label')} to {path}"))
