"""`mer-zoo priors`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, emit, open_store, store_option, table
from mer_cli.zoo_options import calibrate_option, device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.priors import Estimate, Priors


@command("priors")
@click.argument("run")
@store_option
@click.option("--split", default="unlabeled", show_default=True, help="Whose class shares.")
@click.option("--truth", metavar="LAYER", help="A layer with their human labels, to compare with.")
@calibrate_option("bcts")
@click.option("--resamples", default=200, show_default=True, help="Bootstrap samples.")
@click.option("--seed", default=0, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it as PNG.")
@device_option
def priors(run: str, store_url: str, split: str, figure: Path | None, **options: Any) -> None:
    """Estimate how often each class occurs in a split, from a run's predictions; no label of it is read."""
    from mer_zoo.priors import priors as estimate

    found = estimate(open_store(store_url), run, split, **options)
    if figure:
        from mer_zoo.report.rounds import write_priors

        write_priors(found, figure)
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Priors") -> None:
    print_notices(found.notices)
    click.echo(
        f"{plural(found.n, 'clip')} of {found.split} by {found.run}; "
        f"calibration {found.method} on {plural(found.held, 'clip')}"
    )
    columns = ["class", "train", "EM", "95 %", "BBSE", "95 %"]
    rows: list[tuple[str, ...]] = [
        (name, f"{found.train[i]:.3f}", *_cells(found.em, i), *_cells(found.bbse, i))
        for i, name in enumerate(found.classes)
    ]
    if found.truth is not None:
        columns.append("true")
        rows = [(*row, f"{share:.3f}") for row, share in zip(rows, found.truth, strict=True)]
    table("", columns, rows)
    if distances := found.distances():
        far = ", ".join(f"{name} {distance:.3f}" for name, distance in distances.items())
        click.echo(f"total variation from the truth ({plural(found.known, 'clip')}): {far}")


def _cells(estimate: "Estimate", i: int) -> tuple[str, str]:
    return f"{estimate.share[i]:.3f}", f"{estimate.low[i]:.3f} to {estimate.high[i]:.3f}"
