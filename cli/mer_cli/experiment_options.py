"""Options and views that the experiments share."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_cli.app import command_line, emit, table
from mer_cli.params import Names
from mer_cli.training_options import read_settings, settings_options
from mer_cli.zoo_options import device_option, print_notices

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_zoo.experiments import Course, Experiment, Line

Command = TypeVar("Command", bound=Callable[..., Any])

_JUDGE = click.option(
    "--judge", default="test", show_default=True, help="Split whose human labels are the truth."
)
_FIGURE = click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="Copy the figure here."
)
_JUDGED: tuple[Callable[[Any], Any], ...] = (
    _JUDGE,
    click.option("--labels", metavar="LAYER", help="Layer that has them; by default gold, or the only one."),
    _FIGURE,
    device_option,
)
_TRAINED: tuple[Callable[[Any], Any], ...] = (
    click.option("--as", "name", required=True, metavar="NAME", help="Stem of the runs' names."),
    click.option("--features", type=Names(), help="Spaces; by default the only ones there are."),
    click.option("--seeds", default=1, show_default=True, help="Trainings of each line."),
    click.option("--folds", default=5, show_default=True),
    settings_options,
    click.option("--labels", metavar="LAYER", help="What trains; by default gold, or the only layer."),
    _JUDGE,
    click.option("--truth", metavar="LAYER", help="Layer that has them; by default the one that trains."),
    _FIGURE,
    device_option,
)


def judged_options(function: Command) -> Command:
    """Add what every experiment takes: whose labels judge, where the figure goes, on which device."""
    for option in reversed(_JUDGED):
        function = option(function)
    return function


def course_options(function: Command) -> Command:
    """Add what an experiment that trains takes; `read_course` takes it from what the command gets."""
    for option in reversed(_TRAINED):
        function = option(function)
    return function


def read_course(options: dict[str, Any]) -> "Course":
    """Take the options of a course out of `options` and return what they say."""
    from mer_zoo.experiments import Course

    settings = read_settings(options)
    names = ("name", "features", "seeds", "folds", "judge", "labels", "truth", "device")
    return Course(settings=settings, command=command_line(), **{name: options.pop(name) for name in names})


def tell(store: "Store", found: "Experiment", figure: Path | None) -> None:
    """Print an experiment, and copy its figure out of the store."""
    if figure is not None:
        from mer_zoo.experiments import FIGURE

        shutil.copyfile(store.runs[found.record].path(FIGURE), figure)
    emit(found.to_json(), lambda: print_experiment(found))


def print_experiment(found: "Experiment") -> None:
    """Print the table of an experiment."""
    print_notices(found.notices)
    names = list(dict.fromkeys(name for line in found.lines for name in line.facts))
    columns = ["", *names, "WAF", "95 %", "above the first", "95 %", "UAR", "95 %"]
    table(f"judged on {found.judged}", columns, [_row(line, names) for line in found.lines])
    seeds = max(line.seeds for line in found.lines)
    repeated = f"up to {seeds} seeds or draws a line; " if seeds > 1 else ""
    click.echo(f"{repeated}on record as {found.record}")


def _row(line: "Line", names: list[str]) -> tuple[str, ...]:
    low, high = line.gain_interval
    return (
        line.name,
        *(_fact(line.facts.get(name)) for name in names),
        f"{line.waf:.4f}",
        str(line.waf_interval),
        f"{line.gain:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        f"{line.uar:.4f}",
        str(line.uar_interval),
    )


def _fact(value: Any) -> str:
    if isinstance(value, list):
        share, low, high = value
        return f"{share:.3f} ({low:.3f} to {high:.3f})"
    return "" if value is None else str(value)
