"""How a probe of layers is shown: its table, and what to type next."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import table

if TYPE_CHECKING:
    from mer_zoo.experiments import Line


def print_record(document: dict[str, Any], lines: Sequence["Line"]) -> None:
    """Print a probe that is on record."""
    print_probe(lines, f"{document['plugin']} on {document['judged']}", document["best"])
    band = document["band"]
    layers = f"{band[0]}-{band[1]}" if band and band[0] < band[1] else str(band[0]) if band else ""
    options = document.get("options") or {}  # not on record before they were told
    again = extraction(document["plugin"], document["model"], options)
    print_next(again, layers, document["weighted"], document["labels"])


def print_probe(lines: Sequence["Line"], title: str, best: int) -> None:
    """Print a line per layer, and the best of them."""
    columns = ["", "UAR", "± seeds", "95 %", "against the best, 95 %", "WAF", "± seeds", "weight"]
    table(f"{title}, {lines[0].seeds} seeds", columns, [_row(line) for line in lines])
    if any("weight" in line.facts for line in lines):
        click.echo("weight: of the layer in the learned mix of all, in units of the layer's spread")
    click.echo(f"best by UAR: layer {best}")


def extraction(plugin: str, model: str | None, options: Mapping[str, Any]) -> tuple[str, str]:
    """Return the plugin, and the options that say how it was used, as they are typed."""
    words = ["--model", model] if model else []
    for name, value in options.items():
        words += ["--option", f"{name}={value}"]
    return plugin, "".join(f" {shlex.quote(word)}" for word in words)


def print_next(again: tuple[str, str], band: str, weighted: str, labels: str) -> None:
    """Print what to type to tune the best band, and for a space of the learned mix."""
    plugin, how = again
    if band:
        by = "" if labels == "gold" else f" --labels {labels}"
        tune = f"mer-zoo tune {plugin}{how}{by} --layers best --as {plugin}-lora"
        click.echo(f"best band: layer{'s' * ('-' in band)} {band}; to tune it: {tune}")
    if weighted:
        extract = f"mer-fs extract --plugin {plugin}{how} --layers {weighted}"
        click.echo(f"the learned mix as a space: {extract} --as {plugin}-mix")


def _row(line: "Line") -> tuple[str, ...]:
    facts, weight = line.facts, line.facts.get("weight")
    low, high = line.uar_gain_interval
    return (
        line.name,
        f"{line.uar:.4f}", f"{facts['uar_std']:.4f}", str(line.uar_interval),
        f"{line.uar_gain:+.4f} ({low:+.4f} to {high:+.4f})",
        f"{line.waf:.4f}", f"{facts['waf_std']:.4f}",
        "" if weight is None else f"{weight:.3f}",
    )  # fmt: skip
