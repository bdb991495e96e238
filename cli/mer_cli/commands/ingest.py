"""`mer-fs ingest`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Pair, classes_option, csv_options, names_option
from mer_cli.progress import progress
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore.catalogue import Catalogue
    from mer_featurestore.ingest import IngestReport


@command("ingest")
@click.argument("catalogue", metavar="CSV|DIR", type=click.Path(path_type=Path))
@store_option
@click.option("--layout", metavar="NAME", help="Read a corpus's own folder: mer2024, meld, mosei or iemocap.")
@click.option(
    "--merge",
    type=Pair("class=class", "exc=hap"),
    multiple=True,
    help="Count a class as another, with --layout.",
)
@click.option("--corpus", default="", help="Corpus of rows that do not name theirs.")
@click.option(
    "--media-root",
    type=click.Path(path_type=Path),
    help="What media paths start from; default: CSV's folder.",
)
@csv_options
@click.option(
    "--labels-as", default="gold", show_default=True, help="Name of the layer labels are stored as."
)
@click.option("--no-labels", is_flag=True, help="Leave the labels out.")
@classes_option
@names_option("--label-split", "label_splits", "Labels of these splits only.")
@click.option("--update", is_flag=True, help="Take rows that differ from those already there.")
@click.option("--allow-missing", is_flag=True, help="Take clips whose media files are not there.")
@click.option("--no-hash", is_flag=True, help="Do not read the media for content hashes.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
def ingest(
    catalogue: Path,
    store_url: str,
    layout: str | None,
    merge: tuple[tuple[str, str], ...],
    corpus: str,
    media_root: Path | None,
    columns: tuple[tuple[str, str], ...],
    delimiter: str,
    labels_as: str,
    no_labels: bool,
    classes: tuple[str, ...] | None,
    label_splits: tuple[str, ...] | None,
    update: bool,
    allow_missing: bool,
    no_hash: bool,
    dry_run: bool,
) -> None:
    """Add clips, and their labels where given, from a CSV catalogue or a corpus folder, in one commit.

    Columns: key; audio, video or path (media files); text; speaker; group; split; corpus; duration;
    emotion or label. Doing it again with the same file changes nothing. With --layout, --classes also says
    which of the corpus's classes are wanted.
    """
    from mer_featurestore.ingest import ingest as ingest_into

    store = open_store(store_url)
    with progress("reading media") as report:
        read = _read(
            catalogue,
            layout,
            columns=dict(columns),
            corpus=corpus,
            allow_missing=allow_missing,
            hash_media=not no_hash,
            progress=report,
            of_csv={"media_root": media_root, "delimiter": delimiter},
            of_layout={"merge": dict(merge), "classes": classes},
        )
    done = ingest_into(
        store,
        read,
        labels_as=None if no_labels else labels_as,
        classes=classes,
        label_splits=label_splits or (),
        update=update,
        dry_run=dry_run,
        command=command_line(),
    )
    emit(_document(done, read, dry_run), lambda: _print(done, read, dry_run))


def _read(
    path: Path, layout: str | None, of_csv: dict[str, Any], of_layout: dict[str, Any], **how: Any
) -> "Catalogue":
    from mer_featurestore.catalogue import read_catalogue
    from mer_featurestore.layouts import read_layout

    if layout is None:
        if of_layout["merge"]:
            raise click.UsageError("--merge needs --layout")
        return read_catalogue(path, **of_csv, **how)
    for option, given in (
        ("--media-root", of_csv["media_root"]),
        ("--delimiter", of_csv["delimiter"] != ","),
    ):
        if given:
            raise click.UsageError(f"{option} goes with a CSV file: a layout knows its own")
    return read_layout(layout, path, **of_layout, **how)


def _document(done: "IngestReport", read: "Catalogue", dry_run: bool) -> dict[str, object]:
    layer = done.layer
    labels = {"layer": layer.name, "added": done.layer_added, "counts": layer.counts()} if layer else None
    return {
        "commit": done.commit,
        "dry_run": dry_run,
        "clips": asdict(done.clips),
        "labels": labels,
        "columns_not_used": read.unused,
        "notices": read.notices,
    }


def _print(done: "IngestReport", read: "Catalogue", dry_run: bool) -> None:
    for notice in read.notices:
        click.echo(notice)
    clips = done.clips
    would = "would add" if dry_run else "added"
    rest = f"{clips.unchanged} unchanged, {clips.updated} updated"
    click.echo(f"{would} {plural(clips.added, 'clip')} ({rest})")
    if done.layer is not None:
        counts = ", ".join(f"{name} {n}" for name, n in done.layer.counts().items())
        state = would if done.layer_added else "unchanged:"
        click.echo(f"{state} {plural(len(done.layer), 'label')} in layer {done.layer.name!r}: {counts}")
    if read.unused:
        click.echo(f"columns not used: {', '.join(read.unused)}")
    click.echo("nothing was written" if dry_run else f"the store is at commit {done.commit}")
