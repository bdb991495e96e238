"""`mer-fs spaces`."""

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table


@command("spaces")
@store_option
@at_option
def spaces(store_url: str, at: int | None) -> None:
    """List feature spaces: what they hold, how it is stored, and the fingerprint of what made it."""
    found = [space.describe() for space in open_store(store_url, at).features.values()]
    columns = [
        "space",
        "modality",
        "level",
        "row",
        "dtype",
        "clips",
        "MB",
        "stored",
        "fingerprint",
        "quarantined",
    ]

    def show() -> None:
        if not found:
            click.echo("no feature spaces yet; make one with: mer-fs extract --plugin NAME")
            return
        rows = [
            (
                *(s[name] for name in ("name", "modality", "level")),
                " x ".join(map(str, s["row_shape"])),
                *(s[name] for name in ("dtype", "clips")),
                round(s["bytes"] / 1e6, 1),
                "; ".join(s["stored"]),
                s["fingerprint"][:12],
                s["quarantined"],
            )
            for s in found
        ]
        table("", columns, rows)

    emit(found, show)
