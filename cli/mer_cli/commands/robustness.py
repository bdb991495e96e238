"""`mer-zoo robustness`."""

from pathlib import Path
from typing import Any

import click

from mer_cli.app import command, command_line, open_store, store_option
from mer_cli.experiment_options import judged_options, tell


@command("robustness")
@click.argument("run")
@store_option
@click.option(
    "--snr",
    "snrs",
    type=float,
    multiple=True,
    default=(20.0, 10.0, 0.0),
    show_default=True,
    help="Noise, in dB.",
)
@click.option("--masked", default=0.5, show_default=True, help="Share of frames, or of features, masked.")
@click.option("--seeds", default=5, show_default=True, help="Draws of noise and masks.")
@judged_options
def robustness(run: str, store_url: str, figure: Path | None, **options: Any) -> None:
    """Corrupt the features a run reads, one modality at a time, and score what it decides.

    Noise at a signal-to-noise ratio, a share masked by means, and the modality removed.
    """
    from mer_zoo.robustness import robustness as corrupt

    store = open_store(store_url)
    tell(store, corrupt(store, run, command=command_line(), **options), figure)
