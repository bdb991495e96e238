"""`mer-zoo rm`."""

import click

from mer_cli.app import command, command_line, emit, open_store, store_option


@command("rm")
@click.argument("run")
@store_option
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go and what else stands on it.")
@click.option("--force", is_flag=True, help="Remove it although label layers or comparisons stand on it.")
def rm(run: str, store_url: str, dry_run: bool, force: bool) -> None:
    """Remove a run and its evaluations (or a search, or a comparison) from the store's later snapshots."""
    from mer_zoo.removal import remove_run

    store = open_store(store_url)
    report = remove_run(store, run, dry_run=dry_run, force=force, command=command_line())
    emit(report.to_json(), lambda: click.echo(report))
