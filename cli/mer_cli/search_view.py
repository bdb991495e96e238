"""The table of a search, for the commands that show one."""

from collections.abc import Mapping
from typing import Any

import click

from mer_cli.app import table
from mer_featurestore.wording import plural

SHOWN = 20


def print_trials(document: Mapping[str, Any]) -> None:
    """Print the settings of a search, best first: mean ± standard deviation over folds and seeds."""
    names, trials = document["names"], document["trials"]
    rows = [
        (
            *(
                f"{trial['draw'][name]:g}" if isinstance(trial["draw"][name], float) else trial["draw"][name]
                for name in names
            ),
            trial["epochs"],
            *((trial["failed"], "", "") if trial["failed"] else map(_spread, _scores(trial))),
        )
        for trial in trials[:SHOWN]
    ]
    table("", [*names, "epochs", "WAF", "UAR", "accuracy"], rows)
    if len(trials) > SHOWN:
        click.echo(f"… and {len(trials) - SHOWN} more; all of them with --json")
    members = len(trials[0]["members"])
    click.echo(
        f"{plural(document['drawn'], 'trial')}, {len(trials)} distinct of {document['size']}; mean ± "
        f"standard deviation over {members} folds and seeds, each at its best epoch"
    )


def _scores(trial: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [trial[name] for name in ("waf", "uar", "accuracy")]


def _spread(score: Mapping[str, float]) -> str:
    return f"{score['mean']:.4f} ± {score['std']:.4f}"
