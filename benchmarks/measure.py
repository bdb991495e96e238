"""Measuring: medians of interleaved runs, the page cache emptied or filled, and a table of goals."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Results:
    """Rows of `what, goal, measured`, printed at the end.

    Attributes:
        rows: `(what, column, value, goal, unit)`; a goal is `(">=" or "<=", bound)` or None.
    """

    rows: list[tuple[str, str, float, tuple[str, float] | None, str]] = field(default_factory=list)

    def add(
        self, what: str, column: str, value: float, goal: tuple[str, float] | None = None, unit: str = ""
    ) -> None:
        """Note one figure, and show it at once."""
        self.rows.append((what, column, value, goal, unit))
        print(f"  {what} [{column}]: {value:.3g} {unit}", flush=True)

    def show(self, title: str) -> None:
        """Print the table; a figure that misses its goal is marked."""
        from rich.console import Console
        from rich.table import Table

        columns = list(dict.fromkeys(column for _, column, *_ in self.rows))
        grid = Table(title=title, title_justify="left", box=None, header_style="bold")
        for name in ("what", "goal", *columns):
            grid.add_column(name, justify="left" if name == "what" else "right")
        for what in dict.fromkeys(row[0] for row in self.rows):
            mine = {row[1]: row for row in self.rows if row[0] == what}
            goal = next(iter(mine.values()))[3]
            cells = [_cell(mine[column]) if column in mine else "" for column in columns]
            grid.add_row(what, f"{goal[0]} {goal[1]:g}" if goal else "", *cells)
        Console(width=160).print(grid)


def _cell(row: tuple[str, str, float, tuple[str, float] | None, str]) -> str:
    _, _, value, goal, unit = row
    missed = goal is not None and (value < goal[1] if goal[0] == ">=" else value > goal[1])
    text = f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return f"[red]{text} {unit} (missed)[/red]" if missed else f"{text} {unit}"


def compare(
    methods: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    before: Callable[[], None] | None = None,
    best: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each method, or the least.

    Args:
        methods: Called with the number of the round.
        rounds: How often; the order of the methods turns with each round.
        before: Called before every method of every round (to empty the page cache).
        best: Return the least, for few rounds of long runs on a machine that does other things too.
        clock: Which seconds: of the wall, or of the processor.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if before is not None:
                before()
            started = clock()
            methods[name](number)
            times[name].append(clock() - started)
    return {name: (min if best else statistics.median)(found) for name, found in times.items()}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call takes."""
    started = clock()
    work()
    return clock() - started


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def drop(paths: list[Path]) -> None:
    """Drop files from the page cache; they must have been flushed to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(paths: list[Path]) -> None:
    """Read files once, so that they are in the page cache."""
    buffer = bytearray(1 << 24)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def memory() -> dict[str, float]:
    """Return this process' resident memory now and at its peak, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(facts[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}
