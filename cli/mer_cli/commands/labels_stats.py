"""`mer-fs labels stats`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore.label_report import LayerStats


@command("stats")
@click.argument("name")
@store_option
@at_option
def labels_stats(name: str, store_url: str, at: int | None) -> None:
    """Show a layer in numbers: counts, confidence, entropy, and how its members voted."""
    found = open_store(store_url, at).labels.stats(name)
    emit(asdict(found), lambda: _print(name, found))


def _print(name: str, found: "LayerStats") -> None:
    sources = ", ".join(f"{n} {source}" for source, n in found.sources.items())
    click.echo(f"{name}: {found.kept} of {plural(found.rows, 'clip')} kept ({sources or 'none'})")
    total = max(1, found.kept)
    table("", ["class", "clips", "share"], [(c, n, f"{n / total:.3f}") for c, n in found.counts.items()])
    if found.dropped:
        table("", ["dropped because", "clips"], list(found.dropped.items()))
    if found.confidence:
        numbers = ", ".join(f"{what} {value:.3f}" for what, value in found.confidence.items())
        click.echo(f"confidence: {numbers}")
    click.echo(
        f"entropy: {found.entropy:.3f} bits a clip, {found.class_entropy:.3f} bits of the class counts"
    )
    if found.members:
        rows = [(m, s.voted, s.abstained, f"{s.agreement:.3f}") for m, s in found.members.items()]
        table("", ["member", "voted", "abstained", "agrees with the label"], rows)
        click.echo(f"all voting members agree on {found.unanimous:.1%} of the clips")
