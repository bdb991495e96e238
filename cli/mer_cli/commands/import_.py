"""`mer-fs import`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.progress import progress
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore.interchange.importing import ImportReport

FORMATS = ("mertools", "npy", "npz", "hdf5", "parquet", "mmsa")
SHOWN = 5


@command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--as", "name", help="Name of the space; default: the file's or folder's name.")
@store_option
@click.option("--modality", type=click.Choice(["audio", "video", "text"]), help="What the features are of.")
@click.option("--level", type=click.Choice(["utt", "frame"]), help="Default: by the name or the arrays.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), help="Default: float16 stays, else float32."
)
@click.option("--keys", type=click.Path(path_type=Path), help="npy: text file, one key per row.")
@click.option("--member", help="hdf5, parquet: which dataset or column.")
@click.option("--labels-as", help="mmsa: store the annotations as a label layer.")
@click.option("--create-clips", is_flag=True, help="Add clips the catalogue does not have.")
@click.option("--ignore-unknown", is_flag=True, help="Leave out clips the catalogue does not have.")
@click.option("--corpus", default="", help="Corpus of clips that are added.")
@click.option(
    "--non-finite",
    type=click.Choice(["quarantine", "zero"]),
    default="quarantine",
    show_default=True,
    help="Clips with NaN or infinite values: leave out with a reason, or set those to 0.",
)
def import_(
    form: str,
    path: Path,
    name: str | None,
    store_url: str,
    modality: Any,
    level: Any,
    keys: Path | None,
    member: str | None,
    labels_as: str | None,
    **options: Any,
) -> None:
    """Import features that another tool made, with a record of where they came from.

    FORMAT: mertools (a folder of one .npy per clip), npy (a matrix, with --keys), npz, hdf5 (a dataset per
    key), parquet, mmsa (the pickle of MMSA and MMSA-FET; nothing in it is executed). Doing it again adds only
    what is missing.
    """
    from mer_featurestore.interchange import importing

    store = open_store(store_url)
    chosen = importing.ImportOptions(**options, command=command_line())
    name = name or (path.stem if path.is_file() else path.name)
    with progress("importing") as report:
        if form == "mmsa":
            reports = importing.import_mmsa(store, path, name, chosen, labels_as=labels_as, progress=report)
        else:
            if modality is None:
                raise click.UsageError("say what the features are of: --modality audio, video or text")
            source = importing.open_source(form, path, keys=keys, member=member, level=level, progress=report)
            reports = [importing.import_space(store, source, name, modality, chosen, progress=report)]
    emit([asdict(r) for r in reports], lambda: _print(reports))


def _print(reports: "list[ImportReport]") -> None:
    for r in reports:
        parts = [f"{plural(r.added, 'clip')} added", f"{r.present} there already"]
        parts += [f"{r.left_out} not in the catalogue left out"] if r.left_out else []
        parts += [f"{len(r.quarantined)} quarantined"] if r.quarantined else []
        click.echo(f"{r.space}: {', '.join(parts)}")
        for key, reason in list(r.quarantined.items())[:SHOWN]:
            click.echo(f"  {key}: {reason}")
        if len(r.quarantined) > SHOWN:
            click.echo(f"  … mer-fs quarantine lists all {len(r.quarantined)}")
