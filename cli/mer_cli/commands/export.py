"""`mer-fs export`."""

from pathlib import Path

import click

from mer_cli.app import at_option, command, emit, open_store, store_option
from mer_cli.params import names_option
from mer_cli.progress import progress


@command("export")
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder to write in.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mertools", "npz", "parquet"]),
    default="mertools",
    show_default=True,
)
@names_option("--split", "splits", "Clips of these splits only.")
@click.option("--labels", help="parquet: add the labels of this layer.")
@store_option
@at_option
def export(
    name: str,
    folder: Path,
    form: str,
    splits: tuple[str, ...] | None,
    labels: str | None,
    store_url: str,
    at: int | None,
) -> None:
    """Write a feature space for other tools.

    mertools: one .npy per clip; npz: one file, without pickles; parquet: loads with Hugging Face datasets.
    """
    from mer_featurestore.interchange.exporting import export_space

    store = open_store(store_url, at)
    space = store.features[name]
    keys = None if splits is None else [c.key for c in store.clips.select(split=splits) if c.key in space]
    with progress("exporting") as report:
        written = export_space(store, name, folder, form, keys=keys, labels=labels, progress=report)
    emit([str(path) for path in written], lambda: click.echo("\n".join(f"wrote {path}" for path in written)))
