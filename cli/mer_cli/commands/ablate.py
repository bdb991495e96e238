"""`mer-zoo ablate`."""

from pathlib import Path
from typing import Any

import click

from mer_cli.app import command, open_store, store_option
from mer_cli.experiment_options import course_options, read_course, tell
from mer_cli.params import names_option


@command("ablate")
@store_option
@course_options
@click.option("--pseudo", metavar="LAYER", help="Add AGT trained on this layer of pseudo-labels.")
@names_option("--encoder-swap", "encoder_swap", "Spaces, each put in the place of the one of its modality.")
@names_option("--expert-classes", "expert_classes", "Of the weighted vote; by default the two rarest.")
@click.option("--expert-weight", default=2.0, show_default=True, help="Of the expert's vote for these.")
def ablate(store_url: str, figure: Path | None, **options: Any) -> None:
    """Train AGT and what is left without its parts, on the same features and folds, and judge all alike.

    Equal modalities, no CBT, no AMF, the attention baseline, other encoders, pseudo-labels; and the vote of
    AGT with a probe on each space, by majority and with the audio probe as expert. Interrupted, it goes on.
    """
    from mer_zoo.ablate import ablate as take_apart

    store, course = open_store(store_url), read_course(options)
    options["encoder_swap"] = options["encoder_swap"] or ()
    tell(store, take_apart(store, course, **options), figure)
