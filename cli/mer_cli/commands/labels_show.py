"""`mer-fs labels show`."""

from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table

if TYPE_CHECKING:
    from mer_featurestore import LabelLayer
    from mer_featurestore.labels import Resolved


@command("show")
@click.argument("name")
@store_option
@at_option
@click.option("--resolved", is_flag=True, help="Together with the layers it stands on.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows to print."
)
def labels_show(name: str, store_url: str, at: int | None, resolved: bool, limit: int) -> None:
    """Show what a layer says, clip by clip; --json gives every row."""
    layers = open_store(store_url, at).labels
    shown = layers.resolve(name) if resolved else layers[name]
    rows = _rows(shown)
    document = {"layer": name, "classes": list(shown.classes), "rows": rows}

    def show() -> None:
        click.echo(repr(shown))
        table("", list(rows[0]) if rows else ["key"], [tuple(row.values()) for row in rows[:limit]])
        if len(rows) > limit:
            click.echo(f"… {len(rows) - limit} more; -n shows more, --json all")

    emit(document, show)


def _rows(shown: "LabelLayer | Resolved") -> list[dict[str, Any]]:
    from mer_featurestore.labels import SOURCES, Resolved

    rows = []
    for i, key in enumerate(shown.keys):
        row: dict[str, Any] = {
            "key": key,
            "label": shown.classes[shown.label[i]] if shown.label[i] >= 0 else None,
            "confidence": round(float(shown.confidence[i]), 4),
            "source": SOURCES[shown.source[i]],
        }
        if isinstance(shown, Resolved):
            row["layer"] = shown.layer_of[i]
        else:
            row |= {"kept": bool(shown.kept[i]), "reason": shown.reason[i]}
        rows.append(row)
    return rows
