"""Options and views that several `mer-zoo` commands share."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.app import table

if TYPE_CHECKING:
    from mer_zoo.metrics import Scores

Command = TypeVar("Command", bound=Callable[..., Any])

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, cuda:1 …; auto takes a GPU.",
)


def print_scores(title: str, scores: "Scores") -> None:
    """Print the scalar scores, then the classes."""
    click.echo(
        f"{title}: WAF {scores.waf:.4f}  accuracy {scores.accuracy:.4f}  UAR {scores.uar:.4f}  "
        f"macro-F1 {scores.macro_f1:.4f}  ECE {scores.ece:.4f}  ({scores.n} clips)"
    )
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
