"""`mer-zoo calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.zoo_options import calibrate_option, device_option
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.members import Calibration

WORD = {True: "it keeps its word", False: "it does not keep its word", None: "the clips are too few to say"}


@command("calibrate")
@click.argument("run")
@store_option
@calibrate_option("bcts")
@click.option("--split", help="Judge on its human-labelled clips, and put that on record.")
@click.option("--labels", metavar="LAYER", help="Layer with their labels; by default gold, or the only one.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw reliability as PNG.")
@device_option
def calibrate(
    run: str,
    store_url: str,
    calibrate: str,
    split: str | None,
    labels: str | None,
    figure: Path | None,
    device: str,
) -> None:
    """Say how far a run's probabilities can be trusted, before and after calibration.

    Fitted on out-of-fold predictions, and judged on these, each fold calibrated by what is fitted on the
    others; or, with --split, on clips the run has not seen.
    """
    from mer_zoo import members
    from mer_zoo.runs import find_run

    store = open_store(store_url)
    if split is None:
        found = members.calibrate(store, run, calibrate)
    else:
        found = members.calibrate_on(
            store, run, split, calibrate, labels=labels, device=device, command=command_line()
        )
    if figure:
        from mer_zoo.report.rounds import write_calibration

        write_calibration(found, find_run(store, run).config.classes, figure)
    emit({"run": run, **found.to_json()}, lambda: _print(found))


def _print(found: "Calibration") -> None:
    rows = [
        (
            name,
            f"{found.ece[i]:.4f}",
            f"{found.log_loss[i]:.4f}",
            found.sure[i],
            f"{found.right[i] / found.sure[i]:.3f}" if found.sure[i] else "",
            f"{found.precision[i].low:.3f} to {found.precision[i].high:.3f}",
        )
        for i, name in enumerate(("as trained", found.calibrator.method))
    ]
    table("", [f"{plural(found.n, 'clip')}, {found.on}", "ECE", "log loss", "p > 0.9", "right", "95 %"], rows)
    click.echo(f"p > 0.9 means right 9 times of 10: {WORD[found.keeps_its_word]}")
    if found.record:
        click.echo(f"on record as {found.record}")
