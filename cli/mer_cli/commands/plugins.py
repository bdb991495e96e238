"""`mer-fs plugins`."""

from typing import Any

from mer_cli.app import command, emit, table
from mer_cli.plugin_options import no_plugin_option, warn_of_broken


@command("plugins")
@no_plugin_option
def plugins() -> None:
    """List extractor plugins: what they read and give, and whether what they need is installed."""
    from mer_plugins.host import describe_extractors

    rows = describe_extractors()
    emit(rows, lambda: _show(rows))
    warn_of_broken()


def _show(rows: list[dict[str, Any]]) -> None:
    columns = ("plugin", "modality", "levels", "needs", "what")
    table(
        "",
        columns,
        [
            [row["name"], row["modality"], ",".join(row["levels"]), _needs(row), row["summary"]]
            for row in rows
        ],
    )


def _needs(row: dict[str, Any]) -> str:
    if row["missing"]:
        return f"missing {', '.join(row['missing'])}: {row['install']}"
    if row["adapter"]:
        return f"adapter {row['adapter']}"
    return "--model PATH" if row["needs_model"] else "ready"
