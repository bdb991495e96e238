"""`mer-fs duplicates`."""

from dataclasses import asdict

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table
from mer_featurestore.wording import plural


@command("duplicates")
@store_option
@at_option
def duplicates(store_url: str, at: int | None) -> None:
    """List clips with the same content (media bytes and transcript) under different keys."""
    from mer_featurestore.content import duplicates as find

    clips = open_store(store_url, at).clips
    groups = find(clips)
    unknown = sum(not clip.content_hash for clip in clips.values())

    def show() -> None:
        rows = [
            (i, clip.key, clip.corpus, clip.split, clip.content_hash[:12])
            for i, group in enumerate(groups, start=1)
            for clip in group
        ]
        if rows:
            table("", ["group", "key", "corpus", "split", "content"], rows)
        else:
            click.echo("no two clips have the same content")
        if unknown:
            click.echo(f"not compared: {plural(unknown, 'clip')} without a content hash")

    emit({"groups": [[asdict(c) for c in g] for g in groups], "not_compared": unknown}, show)
