"""Writing a report: figures as PNG files, and one HTML page that needs nothing else."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mer_zoo.errors import ZooError
from mer_zoo.report.model import Report
from mer_zoo.report.style import LIGHT, PAGE, SERIES_DARK, SERIES_LIGHT, Theme, styled, to_png, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mer_featurestore import Store

Progress = Callable[[int, int], None]
Draw = Callable[[Theme], "Figure"]


def write_report(
    store: "Store",
    runs: Sequence[str],
    folder: Path | str,
    *,
    split: str = "test",
    labels: str | None = None,
    title: str = "",
    note: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> Path:
    """Judge runs by the labels of a split and write a page with figures.

    Scores that are not on record yet are put on record in the journal, as by `evaluate`. `folder` gets
    `report.html`, which holds everything, and the same figures as PNG under `figures/`.

    Args:
        store: The store.
        runs: Names of runs, in the order they are shown.
        folder: Where to; made if need be, files of an earlier report there are replaced.
        split: Whose clips.
        labels: Layer with their labels; None takes `gold`, or the only one.
        title: Of the page; empty takes one from the runs.
        note: A sentence or two for the head of the page.
        command: For the journal.
        progress: Called with (figures done, figures in all).

    Returns:
        The path of `report.html`.

    Raises:
        UnknownName: No such run, split or layer.
        ZooError: jinja2 or matplotlib is missing, no run is named, or no clip has a label.
    """
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise ZooError(
                f"a report needs {package}, which is not installed", "pip install 'mer-fs[report]'"
            )
    from mer_zoo.report.gather import gather

    report = gather(store, runs, split, labels, title or f"Runs on {split}", note, command=command)
    return write_page(report, Path(folder), progress)


def write_page(report: Report, folder: Path, progress: Progress | None = None) -> Path:
    """Write `report.html` and `figures/*.png` of a report that is gathered already."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    plan, inline = _plan(report), {}
    for done, (name, draw) in enumerate(plan.items()):
        if progress:
            progress(done, len(plan))
        with styled(LIGHT):
            to_png(draw(LIGHT), folder / "figures" / f"{name}.png")
        with styled(PAGE, salt=name):
            inline[name] = to_svg(draw(PAGE))
    page = folder / "report.html"
    page.write_text(_render(report, inline), encoding="utf-8")
    return page


def _plan(report: Report) -> dict[str, Draw]:
    """Return file name -> what draws it."""
    from mer_zoo.report import figures

    plan: dict[str, Draw] = {
        "scores": partial(figures.scores, report.runs),
        "per-class-f1": partial(figures.per_class, report.runs),
        "reliability": partial(figures.reliability, report.runs),
    }
    for i, run in enumerate(report.runs, 1):
        plan[f"confusion-{i}-{_slug(run.name)}"] = partial(figures.confusion, run)
    if any(run.curves for run in report.runs):
        plan["learning-curves"] = partial(figures.learning_curves, report.runs)
    if report.layers:
        plan["label-rounds"] = partial(figures.label_rounds, report.layers)
    return plan


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]


def _render(report: Report, inline: dict[str, str]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mer_zoo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The figures are our own SVG; matplotlib escapes the names in them.
    safe = {name: Markup(svg) for name, svg in inline.items()}  # noqa: S704
    confusions = [svg for name, svg in safe.items() if name.startswith("confusion-")]
    return environment.get_template("page.html.j2").render(
        report=report,
        figures=safe,
        confusions=confusions,
        light=SERIES_LIGHT,
        dark=SERIES_DARK,
    )
