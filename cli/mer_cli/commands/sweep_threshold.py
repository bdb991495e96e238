"""`mer-zoo sweep-threshold`."""

from pathlib import Path
from typing import Any

import click

from mer_cli.app import command, open_store, store_option
from mer_cli.experiment_options import course_options, read_course, tell
from mer_cli.params import Names
from mer_cli.zoo_options import calibrate_option


@command("sweep-threshold")
@click.argument("thresholds", type=Names(), metavar="P,P,…")
@click.option("--run", "runs", multiple=True, required=True, help="A member that votes; several times.")
@store_option
@course_options
@click.option("--model", default="agt", show_default=True, help="Trained on each round.")
@click.option("--split", default="unlabeled", show_default=True, help="Whose clips are labelled.")
@click.option("--vote", default="soft", show_default=True, metavar="NAME", help="How members vote.")
@calibrate_option("none")
@click.option("--audit", metavar="LAYER", help="A layer that knows their classes, to measure precision by.")
def sweep_threshold(
    thresholds: tuple[str, ...], runs: tuple[str, ...], store_url: str, figure: Path | None, **options: Any
) -> None:
    """Publish a round for each threshold, e.g. 0.8,0.9,0.95, train on it, and see what it is worth.

    Volume, precision (with --audit) and the WAF that follows, against human labels alone. Interrupted, it
    goes on.
    """
    from mer_zoo.sweep import read_thresholds
    from mer_zoo.sweep import sweep_threshold as sweep

    store, course = open_store(store_url), read_course(options)
    tell(store, sweep(store, course, read_thresholds(thresholds), runs, **options), figure)
