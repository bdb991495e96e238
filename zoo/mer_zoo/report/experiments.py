"""The figure of an experiment: every line's WAF with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mer_zoo.report.figures import WIDE, _bare, _figure
from mer_zoo.report.style import LIGHT, Theme, styled, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mer_zoo.experiments import Line


def write_lines(lines: Sequence["Line"], judged: str, path: Path) -> Path:
    """Draw the lines as PNG."""
    with styled(LIGHT):
        to_png(draw_lines(lines, judged, LIGHT), path)
    return path


def draw_lines(lines: Sequence["Line"], judged: str, theme: Theme) -> "Figure":
    """WAF of every line with its 95 % interval; a thin rule marks the first."""
    figure, axes = _figure(WIDE, 0.9 + 0.42 * len(lines))
    axes.axvline(lines[0].waf, color=theme.muted, lw=0.9, ls=(0, (2, 3)))
    for row, line in enumerate(lines):
        y, colour = len(lines) - 1 - row, theme.series[0 if row else 6]
        axes.plot(line.waf_interval, (y, y), color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
        axes.plot(line.waf, y, "o", color=colour, ms=8)
        axes.annotate(
            f"{line.waf:.3f}", (line.waf, y), (0, 8), textcoords="offset points",
            ha="center", fontsize=9, color=theme.ink,
        )  # fmt: skip
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], color=theme.ink)
    axes.set_ylim(-0.6, len(lines) - 0.2)
    axes.set_xlabel(f"WAF on {judged}, with its 95 % bootstrap interval over clips")
    axes.grid(axis="x")
    _bare(axes, "left")
    return figure
