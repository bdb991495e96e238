"""Figures of pseudo-label rounds: class shares, and calibration before and after."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mer_zoo.metrics import score
from mer_zoo.report.figures import WIDE, _bare, _figure, _legend_above, reliability
from mer_zoo.report.model import RunView
from mer_zoo.report.style import LIGHT, Theme, styled, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mer_zoo.members import Calibration
    from mer_zoo.priors import Priors


def write_priors(found: "Priors", path: Path) -> Path:
    """Draw the class shares as PNG."""
    with styled(LIGHT):
        to_png(class_shares(found, LIGHT), path)
    return path


def write_calibration(found: "Calibration", classes: tuple[str, ...], path: Path) -> Path:
    """Draw reliability before and after calibration as PNG."""
    views = [
        RunView(
            name=name, model="", modalities=(), layer="", human=0, pseudo=0, interval=(0.0, 0.0),
            scores=score(found.label, probs, classes), label=found.label, probs=probs.astype(np.float64),
        )
        for name, probs in (("as trained", found.before), (found.calibrator.method, found.after))
    ]  # fmt: skip
    with styled(LIGHT):
        to_png(reliability(views, LIGHT), path)
    return path


def class_shares(found: "Priors", theme: Theme) -> "Figure":
    """Shares in training, estimated by EM and BBSE with their intervals, and the true ones where known."""
    C = len(found.classes)
    figure, axes = _figure(max(WIDE, 1.1 * C), 3.1)
    x = np.arange(C)
    axes.bar(x - 0.27, found.train, 0.24, color=theme.muted, alpha=0.55, label="training")
    for i, (name, estimate) in enumerate((("estimated (EM)", found.em), ("cross-check (BBSE)", found.bbse))):
        error = np.maximum([estimate.share - estimate.low, estimate.high - estimate.share], 0)
        axes.bar(
            x + 0.27 * i, estimate.share, 0.24, yerr=error, color=theme.series[i], label=name,
            error_kw={"ecolor": theme.ink, "elinewidth": 1},
        )  # fmt: skip
    if found.truth is not None:
        axes.hlines(found.truth, x - 0.42, x + 0.42, color=theme.ink, lw=1.8, label="true")
    axes.set_xticks(x, found.classes)
    for label in axes.get_xticklabels():
        label.set_color(theme.ink)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"share of clips of {found.split}")
    axes.grid(axis="y")
    _bare(axes, "left")
    _legend_above(axes, 4)
    return figure
