"""`mer-fs labels diff`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore.label_report import Diff


@command("diff")
@click.argument("a")
@click.argument("b")
@store_option
@at_option
@click.option("--own", is_flag=True, help="Compare the layers' own rows, without what they stand on.")
@click.option("--keys", is_flag=True, help="List every clip that flipped.")
def labels_diff(a: str, b: str, store_url: str, at: int | None, own: bool, keys: bool) -> None:
    """Show what changed from layer A to layer B: flips, additions and removals per class."""
    changes = open_store(store_url, at).labels.diff(a, b, own=own)
    document = {
        "a": a,
        "b": b,
        "classes": list(changes.classes),
        "unchanged": changes.unchanged,
        "added": changes.added,
        "removed": changes.removed,
        "flips": changes.flips,
        "per_class": changes.per_class(),
        "matrix": changes.matrix.tolist(),
    }
    emit(document, lambda: _print(changes, keys))


def _print(changes: "Diff", keys: bool) -> None:
    click.echo(
        f"{changes.a} → {changes.b}: {plural(len(changes.flips), 'flip')}, {len(changes.added)} added, "
        f"{len(changes.removed)} removed, {changes.unchanged} unchanged"
    )
    if not changes:
        return
    columns = ["class", "added", "removed", "flipped to", "flipped from", "unchanged"]
    table("", columns, [(c, *n.values()) for c, n in changes.per_class().items()])
    if changes.flips:
        rows = [(c, *map(int, row)) for c, row in zip(changes.classes, changes.matrix, strict=True)]
        table(f"\nrows: class in {changes.a}, columns: class in {changes.b}", ["", *changes.classes], rows)
    if keys:
        rows_of_flips = [(key, old, new) for key, (old, new) in changes.flips.items()]
        table("", ["key", changes.a, changes.b], rows_of_flips)
