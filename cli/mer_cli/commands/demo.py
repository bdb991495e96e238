"""`mer-fs demo`."""

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, emit, table
from mer_cli.demo import CLIPS, THRESHOLD, Plan, run_demo
from mer_cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence


@command("demo")
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--corpus-only", is_flag=True, help="Write the corpus into DIR and stop.")
@click.option("--clips", type=click.IntRange(min=30), default=CLIPS, show_default=True, help="Clips to make.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each training at most.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=THRESHOLD, show_default=True, help="Of the votes."
)
@click.option("--seed", default=0, show_default=True, help="Of the corpus.")
def demo(
    folder: Path | None, corpus_only: bool, clips: int, epochs: int | None, threshold: float, seed: int
) -> None:
    """Run the whole path on a synthetic corpus: media, features, models, two rounds of pseudo-labels, report.

    Each step prints the command that does it. Without DIR everything goes to a temporary folder, which is
    kept. Again in the same DIR, it goes on where it stopped.
    """
    if corpus_only:
        _write_corpus(folder, clips, seed)
        return
    began = time.monotonic()
    plan = Plan(folder or Path(tempfile.mkdtemp(prefix="mer-demo-")), clips, epochs, seed, threshold)
    as_json = click.get_current_context().obj["json"]
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        rows = run_demo(plan)
    seconds = time.monotonic() - began
    document = {"store": plan.store, "report": str(plan.page), "seconds": round(seconds, 1), "runs": rows}
    emit(document, lambda: _print(plan, rows, seconds))


def _write_corpus(folder: Path | None, clips: int, seed: int) -> None:
    from mer_plugins.synthetic import split_sizes, write_corpus

    if folder is None:
        raise click.UsageError("--corpus-only needs a folder: mer-fs demo --corpus-only DIR")
    with progress("drawing and speaking") as report:
        catalogue = write_corpus(folder, seed=seed, **split_sizes(clips), progress=report)
    rows = len(catalogue.read_text("utf-8").splitlines()) - 1
    emit(
        {"catalogue": str(catalogue), "clips": rows},
        lambda: click.echo(f"{rows} synthetic clips, a few of them broken on purpose: {catalogue}"),
    )


def _print(plan: Plan, rows: "Sequence[dict[str, Any]]", seconds: float) -> None:
    columns = ("run", "labels", "human", "pseudo", "pseudo right", "WAF", "UAR")
    table(
        "Test clips: supervised, and after each round",
        columns,
        [
            (
                row["run"], row["labels"], row["human"], row["pseudo"],
                "" if row["pseudo_right"] is None else f"{row['pseudo_right']:.0%}",
                f"{row['waf']:.3f}", f"{row['uar']:.3f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    click.echo(f"\nThe corpus is synthetic: these numbers are about the machinery. {seconds:.0f} s in all.")
    click.echo(f"store   {plan.store}\nreport  {plan.page}\n\nTo look around:")
    for line in plan.next_lines():
        click.echo(f"  {line}")
