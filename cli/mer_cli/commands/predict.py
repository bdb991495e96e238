"""`mer-zoo predict`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer_cli.app import command, emit, open_store, store_option, table
from mer_cli.zoo_options import calibrate_option, device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.runs import Predictions

SHOWN = 20


@command("predict")
@click.argument("run")
@store_option
@click.option("--split", help="Whose clips; by default all.")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@calibrate_option("none")
@click.option("--adjust-logits", is_flag=True, help="Correct for class shares estimated from predictions.")
@click.option("--prior-split", default="unlabeled", show_default=True, help="Estimate them on its clips.")
@device_option
def predict(
    run: str,
    store_url: str,
    split: str | None,
    to: Path | None,
    calibrate: str,
    adjust_logits: bool,
    prior_split: str,
    device: str,
) -> None:
    """Predict clips: the mean of the folds, and out-of-fold for the clips the run was trained on."""
    from mer_zoo.predict import predict as predict_clips
    from mer_zoo.predict import write_csv
    from mer_zoo.priors import corrected

    store = open_store(store_url)
    found = predict_clips(store, run, split, by_fold=adjust_logits, device=device)
    if calibrate != "none" or adjust_logits:
        shares_of = prior_split if adjust_logits else None
        found = corrected(store, found, calibrate=calibrate, prior_split=shares_of, device=device)
    if to is not None:
        write_csv(found, to)
    document = {"run": run, "split": split, "missing": list(found.missing), "predictions": found.rows()}
    emit(document, lambda: _print(found, to))


def _print(found: "Predictions", to: Path | None) -> None:
    if found.missing:
        print_notices([f"{plural(len(found.missing), 'clip')} without any of the run's features left out"])
    rows = [(row["key"], row["label"], f"{row['confidence']:.3f}") for row in found.rows()]
    if to is not None:
        click.echo(f"{plural(len(rows), 'prediction')} written to {to}")
        return
    table("", ["key", "label", "confidence"], rows[:SHOWN])
    if len(rows) > SHOWN:
        click.echo(f"… and {len(rows) - SHOWN} more; write them all with --to FILE.csv")
