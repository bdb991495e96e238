"""The figure of a probe: UAR layer by layer, with intervals, the band and the mix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mer_zoo.report.figures import WIDE, _bare, _figure, _legend_above
from mer_zoo.report.style import LIGHT, Theme, styled, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mer_zoo.experiments import Line


def write_curve(lines: Sequence["Line"], band: tuple[int, int] | None, path: Path) -> Path:
    """Draw the curve as PNG."""
    with styled(LIGHT):
        to_png(draw_curve(lines, band, LIGHT), path)
    return path


def draw_curve(lines: Sequence["Line"], band: tuple[int, int] | None, theme: Theme) -> "Figure":
    """UAR of every layer with its 95 % interval; the band is shaded, the mix a dashed line.

    Args:
        lines: Of `mer_zoo.probing.LayerProbe`.
        band: First and last layer of the best band.
        theme: Colours.
    """
    figure, axes = _figure(WIDE, 3.4)
    layers = [line for line in lines if line.facts["layer"] is not None]
    at = [int(line.facts["layer"]) for line in layers]
    if band:
        axes.axvspan(band[0] - 0.5, band[1] + 0.5, color=theme.series[0], alpha=0.1, lw=0)
        axes.annotate(
            f"band {band[0]}-{band[1]}", (sum(band) / 2, 0), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", fontsize=9, color=theme.muted,
        )  # fmt: skip
    axes.plot(at, [line.uar for line in layers], "-o", color=theme.series[0], lw=1.6, ms=6, label="a layer")
    axes.vlines(
        at, [line.uar_interval.low for line in layers], [line.uar_interval.high for line in layers],
        color=theme.series[0], lw=2.2, alpha=0.45,
    )  # fmt: skip
    for mix in lines:
        if mix.facts["layer"] is None:
            axes.axhline(mix.uar, color=theme.series[1], lw=1.2, ls=(0, (4, 3)), label="learned mix of all")
            axes.axhspan(*mix.uar_interval, color=theme.series[1], alpha=0.08, lw=0)
    axes.set_xticks(at)
    axes.set_xlabel("layer (0: input of the first block)")
    axes.set_ylabel("UAR, 95 % interval over clips")
    axes.grid(axis="y")
    _legend_above(axes, 2)
    _bare(axes, "left")
    return figure
