"""`mer-zoo vote-shift`."""

from pathlib import Path
from typing import Any

import click

from mer_cli.app import command, command_line, open_store, store_option
from mer_cli.experiment_options import judged_options, tell
from mer_cli.params import names_option
from mer_cli.zoo_options import calibrate_option


@command("vote-shift")
@click.option("--run", "runs", multiple=True, required=True, help="A member; give it several times.")
@store_option
@names_option("--vote", "votes", "Ways of voting; by default majority,soft,prior,dawid-skene.")
@calibrate_option("bcts")
@click.option("--draws", default=50, show_default=True, help="Of clips, for each kind of class shares.")
@click.option("--seed", default=0, show_default=True)
@judged_options
def vote_shift(
    runs: tuple[str, ...], store_url: str, votes: tuple[str, ...] | None, figure: Path | None, **options: Any
) -> None:
    """Draw clips of a labelled split in the shares of training, balanced and shifted, and compare votes."""
    from mer_zoo.vote_shift import VOTES
    from mer_zoo.vote_shift import vote_shift as compare

    store = open_store(store_url)
    tell(store, compare(store, runs, votes=votes or VOTES, command=command_line(), **options), figure)
