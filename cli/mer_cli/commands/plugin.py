"""`mer-fs plugin`: for people who write plugins."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer_cli.app import LazyGroup, command, emit, open_store, store_option, table
from mer_cli.params import Pair
from mer_cli.plugin_options import no_plugin_option

if TYPE_CHECKING:
    from mer_plugins.adapters import Adapter

COMMANDS = {
    "new": ("mer_cli.commands.plugin:plugin_new", "Write a plugin package to start from, with its test."),
    "check": ("mer_cli.commands.plugin:plugin_check", "Check what every extractor must do."),
}


@click.group("plugin", cls=LazyGroup, lazy=COMMANDS)
def plugin() -> None:
    """Write a plugin of your own, and check one (mer-fs plugins lists them)."""


@command("new")
@click.argument("name")
@click.option("--modality", type=click.Choice(["audio", "video", "text"]), default="audio", show_default=True)
@click.option("--to", type=click.Path(path_type=Path), help="The package's folder; default: ./NAME.")
def plugin_new(name: str, modality: str, to: Path | None) -> None:
    """Write the package NAME: pyproject.toml with its entry point, one module, its test."""
    from mer_plugins.scaffold import new_plugin

    written = [str(file) for file in new_plugin(name, modality, to)]
    folder = Path(written[0]).parent
    emit(
        written,
        lambda: click.echo(
            "\n".join([*written, f"Next: pip install -e {folder} && mer-fs plugin check {name}"])
        ),
    )


@command("check")
@click.argument("name")
@click.option("--model", metavar="PATH|ID", help="Checkpoint: a local folder or a hub id.")
@click.option("--revision", metavar="REV", help="Revision of a hub checkpoint.")
@click.option("--adapter", metavar="NAME|PATH", help="A folder, or the name of one in --store.")
@store_option
@click.option("--layers", metavar="WHICH", help="As for extract.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="cpu, cuda, cuda:1 …")
@click.option(
    "--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="An option of the plugin."
)
@click.option("--bitwise", is_flag=True, help="Batches must leave every bit the same, not only 1e-4.")
@no_plugin_option
def plugin_check(
    name: str,
    model: str | None,
    revision: str | None,
    adapter: str | None,
    store_url: str,
    layers: str | None,
    device: str,
    extra: tuple[tuple[str, str], ...],
    *,
    bitwise: bool,
) -> None:
    """Check extractor NAME on small media files: shapes, determinism, batches, empty clips and more.

    The sample films show no face: say --option face=center for extractors that look for one.
    """
    from dataclasses import asdict

    from mer_plugins.check import check
    from mer_plugins.contract import Options

    options = Options(
        model=model, revision=revision, layers=layers, device=device, extra=dict(extra),
        adapter=_adapter(adapter, store_url) if adapter else None,
    )  # fmt: skip
    checks = check(name, options, bitwise=bitwise)
    rows = [(c.outcome, c.name, c.reason or c.rule) for c in checks]
    emit(
        [asdict(c) for c in checks],
        lambda: table("", ("result", "check", "what must hold, or why not"), rows),
    )
    if any(c.outcome == "failed" for c in checks):
        raise SystemExit(1)


def _adapter(which: str, store_url: str) -> "Adapter":
    from mer_plugins.adapters import find, read_folder

    folder = Path(which).expanduser()
    return read_folder(folder) if folder.is_dir() else find(open_store(store_url), which)
