"""`mer-fs gc`."""

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_featurestore.wording import plural


@command("gc")
@store_option
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", help="Give up all but the newest N snapshots."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=86400.0,
    show_default=True,
    metavar="SECONDS",
    help="Leave younger files to writers at work; 0 when there are none.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be deleted.")
def gc(store_url: str, keep: int | None, grace: float, dry_run: bool) -> None:
    """Delete files that no commit names, and with --keep old snapshots."""
    from mer_featurestore.maintenance import gc as sweep

    store = open_store(store_url)
    report = sweep(store, keep=keep, grace=grace, dry_run=dry_run, command=command_line())
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {plural(len(report.files), 'file')}, {report.size:,} bytes"]
    lines += [f"snapshots before commit {report.oldest} given up"] if report.gave_up else []
    emit(report.to_json(), lambda: click.echo("\n".join(lines)))
