"""How figures look: one quiet style, colours by role, so that a figure is light, or follows its page.

A figure inlined in the page is drawn in marker colours that are replaced by CSS variables, so the reader's
light or dark setting reaches it. Series colours are Okabe and Ito's (2008), safe for colour-blind readers.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#6B6B6B")
SERIES_DARK = ("#4DA6E0", "#F08A4B", "#35C79B", "#E39BC4", "#E0B04C", "#8FD0F5", "#A8A8A8")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours by role."""

    ink: str
    muted: str
    line: str
    surface: str
    on_accent: str
    series: tuple[str, ...]


LIGHT = Theme("#1d2129", "#626977", "#d9dde4", "#ffffff", "#ffffff", SERIES_LIGHT)
# Markers: near-blacks that nothing else uses, one per CSS variable.
_MARKERS: Mapping[str, str] = {
    "#010101": "var(--ink)",
    "#010102": "var(--muted)",
    "#010103": "var(--line)",
    "#010104": "var(--surface)",
    "#010105": "var(--on-accent)",
    **{f"#0102{i:02d}": f"var(--s{i})" for i in range(1, 8)},
}
PAGE = Theme(
    "#010101", "#010102", "#010103", "#010104", "#010105", tuple(f"#0102{i:02d}" for i in range(1, 8))
)


@contextmanager
def styled(theme: Theme, salt: str = "mer") -> Iterator[None]:
    """Draw in this style; `salt` keeps the ids of several SVGs in one page apart."""
    import matplotlib as mpl

    settings: Any = {
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": False,
        "grid.color": theme.line,
        "grid.linewidth": 0.8,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "figure.facecolor": theme.surface,
        "figure.dpi": 100,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "text.parse_math": False,  # a name with a dollar sign is a name
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
    }
    with mpl.rc_context(settings):
        yield


def to_png(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, 200 dots an inch."""
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})


def to_svg(figure: "Figure") -> str:
    """Return a figure as an inline SVG element whose colours follow the page."""
    memory = io.StringIO()
    figure.savefig(
        memory, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata={"Date": None}
    )
    text = memory.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r"#([\w-]+)", text))  # other ids only say what matplotlib calls a part
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    for marker, variable in _MARKERS.items():
        text = text.replace(marker, variable)
    return text
