"""`mer-fs log`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table

if TYPE_CHECKING:
    from mer_featurestore.journal import Commit


@command("log")
@store_option
@at_option
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Show only the newest N commits.")
def log(store_url: str, at: int | None, limit: int | None) -> None:
    """Show the journal of commits, newest first."""
    commits = list(open_store(store_url, at).log(limit))
    rows = [
        (c.number, c.time[:19].replace("T", " "), f"{c.user}@{c.host}", c.summary(), c.command or c.message)
        for c in commits
    ]
    emit(
        [_document(c) for c in commits], lambda: table("", ["commit", "time", "by", "what", "command"], rows)
    )


def _document(commit: "Commit") -> dict[str, object]:
    return {**asdict(commit), "what": commit.summary()}
