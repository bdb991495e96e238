"""`mer-fs compact`."""

from dataclasses import asdict

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table


@command("compact")
@click.argument("space", required=False)
@store_option
@click.option(
    "--target-mb", type=click.IntRange(1), default=2048, show_default=True, help="Size of a fragment."
)
def compact(space: str | None, store_url: str, target_mb: int) -> None:
    """Merge the small fragments of SPACE (of all spaces by default) in one commit.

    Readers are not disturbed. The old files stay for older snapshots until `mer-fs gc`.
    """
    from mer_featurestore.compact import compact as merge

    store = open_store(store_url)
    done = merge(store, space, target_bytes=target_mb << 20, command=command_line())

    def show() -> None:
        columns = ["space", "fragments", "now", "files", "now"]
        table("", columns, [(d.space, d.before, d.after, d.files_before, d.files_after) for d in done])
        if all(d.before == d.after for d in done):
            click.echo("nothing to merge")

    emit([asdict(d) for d in done], show)
