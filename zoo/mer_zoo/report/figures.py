"""The figures of a report, each from plain values to a matplotlib figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.report.model import LayerView, RunView
from mer_zoo.report.style import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RELIABILITY_BINS = 10
WIDE = 8.8  # inches, the width of the page


def scores(runs: Sequence[RunView], theme: Theme) -> "Figure":
    """WAF of every run with its 95 % interval."""
    figure, axes = _figure(WIDE, 0.9 + 0.42 * len(runs))
    for row, run in enumerate(runs):
        y, colour = len(runs) - 1 - row, theme.series[row % len(theme.series)]
        axes.plot(run.interval, (y, y), color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
        axes.plot(run.scores.waf, y, "o", color=colour, ms=8)
        axes.annotate(
            f"{run.scores.waf:.3f}", (run.scores.waf, y), (0, 8), textcoords="offset points",
            ha="center", fontsize=9, color=theme.ink,
        )  # fmt: skip
    axes.set_yticks(range(len(runs)), [run.name for run in reversed(runs)], color=theme.ink)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(runs) - 0.2)
    axes.set_xlabel("WAF, with its 95 % bootstrap interval over clips")
    axes.grid(axis="x")
    _bare(axes, "left")
    return figure


def confusion(run: RunView, theme: Theme) -> "Figure":
    """Counts per label (row) and prediction (column), shaded by the share of the row."""
    counts = np.asarray(run.scores.confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(counts)
    side = 1.15 + 0.52 * n
    figure, axes = _figure(side, side)
    for i in range(n):
        for j in range(n):
            axes.add_patch(_cell(j, i, theme.series[0], float(share[i, j])))
            if counts[i, j]:
                strong = share[i, j] > 0.55
                axes.text(
                    j, i, str(counts[i, j]), ha="center", va="center", fontsize=9,
                    color=theme.on_accent if strong else theme.ink if i == j else theme.muted,
                    fontweight="bold" if i == j else "normal",
                )  # fmt: skip
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(n), run.scores.classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), run.scores.classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    axes.set_title(f"{run.name}   WAF {run.scores.waf:.3f}", pad=8)
    _bare(axes, *axes.spines)
    return figure


def per_class(runs: Sequence[RunView], theme: Theme) -> "Figure":
    """F1 of every class, a bar a run."""
    classes = runs[0].scores.classes
    width = 0.8 / len(runs)
    figure, axes = _figure(max(WIDE, 0.28 * len(classes) * (len(runs) + 1.2)), 3.1)
    for i, run in enumerate(runs):
        x = np.arange(len(classes)) - 0.4 + width * (i + 0.5)
        f1 = [run.scores.per_class[c].f1 for c in classes]
        axes.bar(x, f1, width * 0.86, color=theme.series[i % len(theme.series)], label=run.name)
    support = [runs[0].scores.per_class[c].support for c in classes]
    axes.set_xticks(range(len(classes)), [f"{c}\n{n} clips" for c, n in zip(classes, support, strict=True)])
    for label in axes.get_xticklabels():
        label.set_color(theme.ink)
    axes.set_ylim(0, 1)
    axes.set_ylabel("F1")
    axes.grid(axis="y")
    _bare(axes, "left")
    _legend_above(axes, len(runs))
    return figure


def reliability(runs: Sequence[RunView], theme: Theme) -> "Figure":
    """How often a run is right when it is this sure, and how often it is this sure."""
    from matplotlib.collections import PathCollection

    figure = _sheet(4.9, 5.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    above.plot((0, 1), (0, 1), color=theme.muted, lw=0.9, ls=(0, (2, 3)))
    for i, run in enumerate(runs):
        colour = theme.series[i % len(theme.series)]
        sure, right, share = _reliability(run.label, run.probs, edges)
        above.plot(sure, right, color=colour, lw=1.3, alpha=0.75)
        above.scatter(sure, right, 8 + 220 * share[share > 0], color=colour, label=run.name, linewidths=0)
        below.stairs(share, edges, color=colour, lw=1.5)
    above.set(ylim=(0, 1.02), ylabel="share right")
    below.set(xlim=(0, 1), xlabel="confidence (top probability)", ylabel="share of clips")
    below.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(axis="y")
        _bare(axes, "left")
    legend = figure.legend(loc="outside upper left", ncols=3, handlelength=1.0, columnspacing=1.2)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([28])  # not as large as the first of the points happens to be
    return figure


def learning_curves(runs: Sequence[RunView], theme: Theme) -> "Figure":
    """Validation WAF by epoch: every fold thin, their mean over running folds thick."""
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = _sheet(3.0 * columns + 0.4, 2.3 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    for i, (axes, run) in enumerate(zip(grid.flat, runs, strict=False)):
        colour = theme.series[i % len(theme.series)]
        for curve in run.curves:
            axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, lw=0.9, alpha=0.35)
        if run.curves:
            mean = _running_mean(run.curves)
            axes.plot(np.arange(1, len(mean) + 1), mean, color=colour, lw=2)
        axes.set_title(run.name)
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        _bare(axes, "left")
        if i + columns >= len(runs):
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation WAF")
    return figure


def label_rounds(layers: Sequence[LayerView], theme: Theme) -> "Figure":
    """Labels per class in every layer: by people, and pseudo-labels that were kept."""
    classes = list(layers[0].human)
    figure, axes = _figure(max(WIDE, 0.3 * len(classes) * (len(layers) + 1.2)), 3.1)
    width = 0.8 / len(layers)
    for i, layer in enumerate(layers):
        x = np.arange(len(classes)) - 0.4 + width * (i + 0.5)
        human = np.array([layer.human[c] for c in classes])
        pseudo = np.array([layer.pseudo[c] for c in classes])
        axes.bar(x, human + pseudo, width * 0.86, color=theme.surface)  # hides the grid behind what follows
        axes.bar(x, human, width * 0.86, color=theme.muted, alpha=0.55, label="by people" if i == 0 else None)
        if pseudo.any():
            axes.bar(
                x, pseudo, width * 0.86, bottom=human, color=theme.series[0],
                alpha=0.4 + 0.6 * i / max(1, len(layers) - 1), label=f"pseudo, {layer.name}",
            )  # fmt: skip
    axes.set_xticks(range(len(classes)), classes)
    for label in axes.get_xticklabels():
        label.set_color(theme.ink)
    axes.set_ylabel("clips with a label")
    axes.grid(axis="y")
    _bare(axes, "left")
    _legend_above(axes, len(layers) + 1)
    return figure


def _sheet(width: float, height: float) -> "Figure":
    """An empty figure, in inches; made without pyplot, which would keep it alive and want a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    figure = _sheet(width, height)
    return figure, figure.subplots()


def _bare(axes: "Axes", *spines: str) -> None:
    """Take away spines and tick marks; the grid and the data say where things are."""
    for spine in spines:
        axes.spines[spine].set_visible(False)
    axes.tick_params(length=0)


def _legend_above(axes: "Axes", entries: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(entries, 6), handlelength=1.0, handleheight=1.0,
        borderaxespad=0.2, columnspacing=1.4,
    )  # fmt: skip


def _cell(x: int, y: int, colour: str, strength: float) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x - 0.46, y - 0.46), 0.92, 0.92, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour, alpha=0.06 + 0.9 * strength, edgecolor="none",
    )  # fmt: skip


def _reliability(
    label: NDArray[np.int64], probs: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence and share right of the bins that have clips, and the share of clips of every bin."""
    confidence, right = probs.max(1), probs.argmax(1) == label
    bins = len(edges) - 1
    which = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    some = count > 0
    sure = np.bincount(which, confidence, bins)[some] / count[some]
    hits = np.bincount(which, right, bins)[some] / count[some]
    return sure, hits, count / len(label)


def _running_mean(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over the folds that are still running, for as long as at least half of them are."""
    longest = max(map(len, curves))
    padded = np.full((len(curves), longest), np.nan)
    for row, curve in zip(padded, curves, strict=True):
        row[: len(curve)] = curve
    running = (~np.isnan(padded)).sum(0) * 2 >= len(curves)
    mean: NDArray[np.float64] = np.nanmean(padded[:, running], axis=0)
    return mean
