"""`mer-zoo report`."""

from pathlib import Path

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.progress import progress
from mer_featurestore.wording import plural


@command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
@store_option
@click.option("--split", default="test", show_default=True, help="Whose clips the runs are judged by.")
@click.option("--labels", metavar="LAYER", help="Their labels; by default gold, or the only layer.")
@click.option("--title", default="", help="Heading of the page.")
@click.option("--note", default="", help="A sentence for the head of the page.")
def report(
    runs: tuple[str, ...], folder: Path, store_url: str, split: str, labels: str | None, title: str, note: str
) -> None:
    """Judge runs by a labelled split; write one self-contained HTML page, and its figures as PNG."""
    from mer_zoo.report import write_report

    store = open_store(store_url)
    with progress("drawing figures") as told:
        page = write_report(
            store,
            runs,
            folder,
            split=split,
            labels=labels,
            title=title,
            note=note,
            command=command_line(),
            progress=told,
        )
    figures = sorted(path.name for path in (folder / "figures").glob("*.png"))
    emit(
        {"report": str(page), "figures": figures},
        lambda: click.echo(f"wrote {page} and {plural(len(figures), 'figure')} beside it"),
    )
