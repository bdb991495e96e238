"""`mer-zoo run`."""

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer_cli.app import command, command_line, emit, store_option, table
from mer_cli.lines import check_line, run_line
from mer_cli.params import Pair

if TYPE_CHECKING:
    from mer_zoo.recipes import Outcome, Step


INTERRUPTED = 130


@command("run")
@click.argument("recipe")
@store_option
@click.option(
    "--corpus",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The corpus's folder.",
)
@click.option(
    "--set",
    "settings",
    type=Pair("name=value", "hubert=/models/hubert-large", empty=True),
    multiple=True,
    help="A setting of the recipe; mer-zoo recipes NAME lists them.",
)
@click.option("--dry-run", is_flag=True, help="Show the steps and run none.")
@click.option(
    "--from", "start", default="", metavar="STEP", help="Start at this step: its number or what it makes."
)
def run(
    recipe: str,
    store_url: str,
    corpus: Path,
    settings: tuple[tuple[str, str], ...],
    dry_run: bool,
    start: str,
) -> None:
    """Run a whole pipeline, step by step: one that comes along, by name, or a YAML file of your own.

    What is in the store is passed over, so that the same command goes on where an earlier one stopped.
    """
    from mer_zoo import recipes

    # On a busy machine waiting threads should wait, not spin. It is read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    document = recipes.load_recipe(recipes.find_recipe(recipe))
    steps = recipes.make_steps(document, str(corpus), store_url, dict(settings))
    for step in steps:
        _check(step)
    told = _Told(len(steps), dry_run)
    as_json = click.get_current_context().obj["json"]
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        click.echo(f"{document.name}: {document.paper or document.about}".rstrip(": "))
        outcomes = recipes.run_steps(
            steps,
            recipes.State(store_url),
            _execute,
            start=recipes.start_at(steps, start),
            dry_run=dry_run,
            told=told,
        )
    answer = {"recipe": document.name, "store": store_url, "steps": [o.to_json() for o in outcomes]}
    emit(answer, lambda: _print(outcomes))


def _check(step: "Step") -> None:
    """Refuse a line that cannot be right before anything is run: hours later is too late."""
    try:
        check_line(step.argv)
    except click.UsageError as error:
        raise click.UsageError(f"step {step.number}, {step.line}: {error.format_message()}") from None


def _execute(argv: Sequence[str]) -> None:
    try:
        run_line(argv)
    except click.exceptions.Exit as end:
        if end.exit_code == INTERRUPTED:
            raise SystemExit(INTERRUPTED) from None
        if end.exit_code:
            raise
    finally:
        gc.collect()  # a model of 13B must not stay while the next one loads
        if (torch := sys.modules.get("torch")) is not None:
            torch.cuda.empty_cache()


class _Told:
    """Prints what happens as it happens."""

    def __init__(self, count: int, dry_run: bool) -> None:
        self.count, self.dry_run = count, dry_run

    def __call__(self, outcome: "Outcome", begins: bool) -> None:
        step = outcome.step
        if begins or outcome.status not in ("done", "failed", "stopped"):
            click.secho(f"\n[{step.number}/{self.count}] {step.title}", bold=True)
            click.secho(f"$ {step.line}", fg="cyan")
        if outcome.warning:
            click.echo(f"Note: {outcome.warning}", err=True)
        if begins:
            return
        if outcome.status in ("failed", "stopped"):
            click.echo(
                f"{outcome.status.capitalize()} at step {step.number} of {self.count}, {step.title}. "
                f"Alone: {step.line}\nWhat was done is kept; to go on: {command_line()}",
                err=True,
            )
        elif outcome.status == "done":
            click.echo(f"done in {_seconds(outcome.seconds)}")
        elif outcome.status == "there":
            click.echo(f"skipped, there already: {outcome.note}")
        else:
            click.echo(f"to do: {outcome.note}" if outcome.note else outcome.status)


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _print(outcomes: "Sequence[Outcome]") -> None:
    click.echo()
    rows = [
        (
            o.step.number,
            o.step.title,
            o.status,
            _seconds(o.seconds) if o.seconds else "",
            ", ".join(o.step.makes),
        )
        for o in outcomes
    ]
    table("", ["step", "what", "status", "time", "makes"], rows)
    total = sum(o.seconds for o in outcomes)
    done = sum(o.status == "done" for o in outcomes)
    there = sum(o.status == "there" for o in outcomes)
    click.echo(f"{done} of {len(outcomes)} steps run, {there} there already; {_seconds(total)}")
