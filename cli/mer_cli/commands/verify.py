"""`mer-fs verify`."""

import click

from mer_cli.app import command, emit, store_option, table


@command("verify")
@store_option
@click.option("--quick", is_flag=True, help="Compare only names and sizes; read no data.")
def verify(store_url: str, quick: bool) -> None:
    """Check the journal, checksums, shapes, keys and parents; list everything that is broken."""
    from mer_cli.progress import progress
    from mer_featurestore.maintenance import open_readable
    from mer_featurestore.maintenance import verify as check

    with progress("verifying") as report:
        found = check(open_readable(store_url), deep=not quick, progress=report)
    rows = [(p.kind, p.where, p.message) for p in found.problems]
    emit(
        found.to_json(), lambda: table("", ["problem", "where", "what"], rows) if rows else click.echo(found)
    )
    if not found.ok:
        click.get_current_context().exit(1)
