"""`mer-fs init`."""

import click

from mer_cli.app import command, emit, store_option


@command("init")
@store_option
@click.option("--backend", default="zarr", show_default=True, help="Format of the files: zarr or hdf5.")
def init(store_url: str, backend: str) -> None:
    """Make an empty store in a new or empty folder, or below s3://bucket/prefix."""
    from mer_featurestore import Store

    store = Store.create(store_url, backend=backend)
    emit({"store": store.url, "backend": backend}, lambda: click.echo(f"made {store.url} ({backend})"))
