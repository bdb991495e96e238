"""Options and views that several `mer-zoo` commands share."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.app import table
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.metrics import Scores

Command = TypeVar("Command", bound=Callable[..., Any])

SCORES = {"waf": "WAF", "uar": "UAR", "accuracy": "accuracy", "macro_f1": "macro-F1"}

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, cuda:1 …; auto takes a GPU.",
)


def calibrate_option(default: str) -> Callable[[Command], Command]:
    """Add `--calibrate`."""
    return click.option(
        "--calibrate",
        type=click.Choice(["none", "temperature", "bcts", "vector"]),
        default=default,
        show_default=True,
        help="How probabilities are calibrated on out-of-fold predictions.",
    )


def print_scores(title: str, scores: "Scores") -> None:
    """Print the scalar scores with their 95 % intervals, then the classes."""
    intervals = scores.intervals
    told = [
        f"{shown_as} {getattr(scores, name):.4f} [{intervals[name].low:.4f}, {intervals[name].high:.4f}]"
        for name, shown_as in SCORES.items()
    ]
    clips = plural(scores.n, "clip")
    click.echo(f"{title}: {'  '.join(told)}  ECE {scores.ece:.4f}  ({clips}; [95 % intervals])")
    rows = [
        (name, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", c.support)
        for name, c in scores.per_class.items()
    ]
    table("", ["class", "precision", "recall", "F1", "clips"], rows)


def print_confusion(scores: "Scores") -> None:
    """Print the confusion matrix, a label a row."""
    rows = [(name, *counts) for name, counts in zip(scores.classes, scores.confusion, strict=True)]
    click.echo("labels by row, predictions by column:")
    table("", ["", *scores.classes], rows)


def print_notices(notices: Sequence[str]) -> None:
    """Print what a person should know, on stderr."""
    for notice in notices:
        click.echo(f"Note: {notice}", err=True)


def shown(values: Mapping[str, Any]) -> str:
    """Return `name=value` pairs for a cell."""
    return " ".join(f"{name}={value}" for name, value in values.items())
