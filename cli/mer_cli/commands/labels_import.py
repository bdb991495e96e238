"""`mer-fs labels import`."""

from pathlib import Path

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import classes_option, csv_options, names_option
from mer_featurestore.wording import plural


@command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, help="Name of the layer.")
@store_option
@names_option("--split", "splits", "Labels of clips of these splits only.")
@classes_option
@names_option("--over", "parents", "Layers it stands on.")
@click.option("--ignore-unknown", is_flag=True, help="Leave out rows whose clip is not in the catalogue.")
@csv_options
def labels_import(
    file: Path,
    name: str,
    store_url: str,
    splits: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    parents: tuple[str, ...] | None,
    ignore_unknown: bool,
    columns: tuple[tuple[str, str], ...],
    delimiter: str,
) -> None:
    """Import a label layer from a CSV or Parquet table, or a MERTools label .npz.

    Columns: key; label or emotion, or p_<class> for soft labels; optionally confidence, source, kept, reason,
    vote_<member>. Only clips of the catalogue can have labels.
    """
    from mer_featurestore.ingest import labels_for_clips
    from mer_featurestore.label_sheets import read_labels

    store = open_store(store_url)
    sheet = read_labels(file, name, classes=classes, columns=dict(columns), delimiter=delimiter)
    layer = labels_for_clips(store, sheet, splits=splits or (), ignore_unknown=ignore_unknown)
    layer = layer.over(f"labels/{parent}" for parent in parents or ())
    store.labels.add(layer, command=command_line())
    counts = ", ".join(f"{c} {n}" for c, n in layer.counts().items())
    left_out = len(sheet.layer) - len(layer)
    told = f"{plural(len(layer), 'label')} ({plural(left_out, 'row')}"
    emit(
        {"layer": name, "rows": len(layer), "left_out": left_out, "counts": layer.counts()},
        lambda: click.echo(f"layer {name!r}: {told} left out): {counts}"),
    )
