"""A progress bar on stderr for anything that takes longer than a blink."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Report(Protocol):
    """Is told (done, in all), and what is being done where there are several things one after the other."""

    def __call__(self, done: int, total: int, stage: str = "") -> None:
        """Take note."""


@contextlib.contextmanager
def progress(what: str) -> Iterator[Report]:
    """Give a function to report progress to; nothing is drawn with `--json` or when stderr is no terminal."""
    context = click.get_current_context(silent=True)
    if not sys.stderr.isatty() or (context is not None and (context.obj or {}).get("json")):
        yield _silent
        return
    bar, task = _bar(what)

    def report(done: int, total: int, stage: str = "") -> None:
        bar.start()  # does nothing when it is running
        described = f"{what}: {stage}" if stage else what
        bar.update(task, completed=done, total=total, description=described)

    try:
        yield report
    finally:
        bar.stop()


def _silent(done: int, total: int, stage: str = "") -> None:
    """Tell nobody."""


def _bar(what: str) -> "tuple[Progress, TaskID]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    return bar, bar.add_task(what, total=None)
