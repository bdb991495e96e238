"""`mer-fs rm`."""

import click

from mer_cli.app import command, command_line, emit, open_store, store_option


@command("rm")
@store_option
@click.argument("name")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go and what stands on it.")
@click.option("--force", is_flag=True, help="Remove it although others were made from it (never labels).")
def rm(store_url: str, name: str, dry_run: bool, force: bool) -> None:
    """Remove a space, layer, run or adapter (NAME, or kind/NAME) from the store's later snapshots."""
    from mer_featurestore.maintenance import remove

    store = open_store(store_url)
    report = remove(store, name, dry_run=dry_run, force=force, command=command_line())
    emit(report.to_json(), lambda: click.echo(report))
