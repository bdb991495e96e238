"""`mer-fs labels`: the group, and what it lists when called alone."""

from typing import Any

import click
from click.core import ParameterSource

from mer_cli.app import LazyGroup, at_option, command, emit, open_store, store_option, table

SHOWN = 40  # characters of a parameter's value; --json has it whole
ELSEWHERE = ("members", "judged", "kept", "human")  # in other columns
NOTHING: tuple[Any, ...] = (None, {}, [])
COMMANDS = {
    "import": ("mer_cli.commands.labels_import:labels_import", "Import a layer from CSV, Parquet or .npz."),
    "list": ("mer_cli.commands.labels:labels_list", "List layers: counts per class, parents, parameters."),
    "show": ("mer_cli.commands.labels_show:labels_show", "Show what a layer says, clip by clip."),
    "diff": (
        "mer_cli.commands.labels_diff:labels_diff",
        "Show flips, additions and removals between two layers.",
    ),
    "blame": ("mer_cli.commands.labels_blame:labels_blame", "Show why a clip has the label it has."),
    "export": ("mer_cli.commands.labels_export:labels_export", "Write a layer as CSV or MERTools .npz."),
    "stats": ("mer_cli.commands.labels_stats:labels_stats", "Show counts, entropy and agreement of a layer."),
}


@command("labels", cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True)
@store_option
@at_option
def labels(store_url: str, at: int | None) -> None:
    """List label layers, or import, show, compare and export them."""
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        _list(store_url, at)
    elif context.get_parameter_source("store_url") is ParameterSource.COMMANDLINE or at is not None:
        name = context.invoked_subcommand
        raise click.UsageError(f"put --store and --at behind the command: mer-fs labels {name} --store …")


@command("list")
@store_option
@at_option
def labels_list(store_url: str, at: int | None) -> None:
    """List layers, oldest first: clips per class, what they stand on, and the parameters that made them."""
    _list(store_url, at)


def _list(store_url: str, at: int | None) -> None:
    layers = open_store(store_url, at).labels
    facts = [layers.facts(name) for name in layers]
    emit(facts, lambda: _print(facts))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else text[: SHOWN // 4] + "…"


def _made_with(attrs: dict[str, Any]) -> str:
    told = {name: value for name, value in attrs.items() if name not in ELSEWHERE and value not in NOTHING}
    return ", ".join(f"{name}={_short(value)}" for name, value in told.items())


def _print(facts: list[dict[str, Any]]) -> None:
    if not facts:
        click.echo("no label layers yet; import one: mer-fs labels import LABELS.csv --as gold")
        return
    columns = ["layer", "human", "pseudo", "dropped", "per class", "over", "made with"]
    rows = [
        (
            f["name"],
            f["sources"]["human"],
            f["sources"]["pseudo"],
            f["rows"] - f["kept"],
            ", ".join(f"{name} {n}" for name, n in f["counts"].items()),
            ", ".join(f["parents"]),
            _made_with(f["attrs"]),
        )
        for f in facts
    ]
    table("", columns, rows)
