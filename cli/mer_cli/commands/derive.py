"""`mer-fs derive`."""

from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import names_option
from mer_cli.progress import progress
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_plugins.deriving import DeriveReport
    from mer_plugins.operations import Operation

INTERRUPTED = 130
_WAYS = ("adapter", "pca", "standardise", "layers", "pool")


@command("derive")
@click.argument("source", metavar="SPACE")
@store_option
@click.option("--as", "name", required=True, metavar="STEM", help="Name of the space: STEM-UTT or STEM-FRA.")
@click.option("--adapter", metavar="NAME", help="Through an adapter's projection, e.g. of mer-zoo align.")
@click.option("--pca", type=click.IntRange(min=1), metavar="N", help="N principal components.")
@click.option("--whiten", is_flag=True, help="With --pca: scaled to unit variance.")
@click.option("--standardise", "--standardize", "standardise", is_flag=True, help="Zero mean, unit variance.")
@click.option("--layers", metavar="WHICH", help="Of a layer axis: k, i-j (summed), last4 or weighted:w0,w1,…")
@click.option("--pool", metavar="HOW", help="Frames to utterances: mean, mean-std or max.")
@names_option("--fit-on", "fit_on", "Fit on clips of these splits. [default: train,unlabeled]")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored type.")
@click.option("-m", "--message", default="", help="A word for the log.")
def derive(
    source: str,
    store_url: str,
    name: str,
    dtype: Any,
    message: str,
    fit_on: tuple[str, ...] | None,
    **said: Any,
) -> None:
    """Compute a space from SPACE; run it again and it adds what is missing.

    What --pca and --standardise fit is kept as adapter STEM, so that later clips get the same.
    """
    from mer_plugins import deriving

    ways = [way for way in _WAYS if said[way]]
    if len(ways) != 1:
        raise click.UsageError("say one of " + ", ".join(f"--{way}" for way in _WAYS))
    if said["whiten"] and not said["pca"]:
        raise click.UsageError("--whiten goes with --pca")
    if fit_on and ways[0] not in ("pca", "standardise"):
        raise click.UsageError("--fit-on goes with --pca and --standardise")
    store = open_store(store_url)
    operation = _operation(store, source, name, fit_on or (), said)
    with progress(f"deriving {name}") as tell:
        report = deriving.derive(
            store,
            source,
            name,
            operation,
            dtype=dtype,
            command=command_line(),
            message=message,
            progress=tell,
        )
    emit(report.as_json(), lambda: _show(report))
    if report.interrupted:
        raise SystemExit(INTERRUPTED)


def _operation(
    store: "Store", source: str, name: str, splits: tuple[str, ...], said: dict[str, Any]
) -> "Operation":
    from mer_plugins import deriving, fitting, operations

    if said["adapter"]:
        return deriving.project(store, said["adapter"])
    if said["layers"]:
        return deriving.mix(store, source, said["layers"])
    if said["pool"]:
        return operations.Pool(said["pool"])
    method = "pca" if said["pca"] else "standardise"
    fit = fitting.Fit(method=method, components=said["pca"] or 0, whiten=said["whiten"], splits=splits)
    return fitting.fitted(store, source, name, fit, command=command_line())


def _show(report: "DeriveReport") -> None:
    there = f" ({report.there} there already)" if report.there else ""
    row = " x ".join(map(str, report.row_shape))
    if not report.added and not report.failed:
        click.echo(
            f"Nothing to do: {plural(report.there, 'clip')} of {report.source} in {report.space} already."
        )
    else:
        added = plural(report.added, "clip")
        click.echo(f"{added} into {report.space}{there}: rows of {row}, from {report.source}.")
    if report.adapter:
        click.echo(f"by adapter {report.adapter}: mer-fs adapters show {report.adapter}")
    if report.failed:
        click.echo(f"{len(report.failed)} failed and are in quarantine: mer-fs quarantine")
    if report.interrupted:
        click.echo("Interrupted; what was done is committed. The same command does the rest.", err=True)
