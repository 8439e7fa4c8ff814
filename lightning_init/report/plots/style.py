"""The look of all figures: colours that colour-blind readers can tell apart, sizes, and matplotlib itself.

Nothing here touches pyplot, so neither the user's backend nor their open figures are concerned. Colours are set one by
one, so that a dark style of the user's does not leave dark marks on a dark ground.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_init.errors import InitError
from lightning_init.report.findings import Severity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BAND", "INK", "MARKS", "MUTED", "TEXT", "WIDTH", "Look", "dot_size", "looks", "new_figure", "tidy"]

WIDTH = 11.0
"""Of every figure, in inches: wide enough for 40 names side by side, and still readable in a logger's panel."""

TEXT = 8.0
"""The size of small text, in points."""

INK = "#222222"
MUTED = "#8a8a8a"
BAND = "#f2f4f7"

MARKS: Mapping[Severity, tuple[str, str]] = {
    "error": ("D", "#d55e00"),
    "warning": ("o", "#e69f00"),
    "info": (".", MUTED),
}
"""The marker and colour of a finding. The two colours are kept from initializers."""

# Okabe and Ito's palette without the colours of findings and without its yellow, which is too pale for a dot on white.
_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#6a4c93", "#7a5c2e")
_MARKERS = ("o", "s", "^", "v", "P", "X")
_UNDECLARED: Mapping[str, tuple[str, str]] = {"untouched": (MUTED, "o"), "kept": (INK, "o")}

Look = tuple[str, str]
"""A colour and a marker."""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order in which they come first; no two are equal among the first 36.

    >>> looks(["Kaiming", "untouched", "Kaiming"])
    {'Kaiming': ('#0072b2', 'o'), 'untouched': ('#8a8a8a', 'o')}
    """
    found: dict[str, Look] = {}
    for name in names:
        if name not in found:
            n = len(found.keys() - _UNDECLARED.keys())
            other = (_COLOURS[n % len(_COLOURS)], _MARKERS[n // len(_COLOURS) % len(_MARKERS)])
            found[name] = _UNDECLARED.get(name, other)
    return found


def new_figure(height: float) -> Figure:
    """An empty figure that no window and no backend knows of.

    Args:
        height: In inches.

    Raises:
        InitError: matplotlib is not installed.
    """
    try:
        module: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise InitError('figures need matplotlib, which is not installed: pip install "lightning-init[plot]"') from None
    layout: Any = importlib.import_module("matplotlib.layout_engine")
    engine = layout.ConstrainedLayoutEngine(h_pad=0.03, w_pad=0.05, hspace=0.0)
    figure: Figure = module.Figure(figsize=(WIDTH, height), layout=engine, facecolor="white", dpi=100)
    return figure


def dot_size(n: int) -> float:
    """The size of each of ``n`` dots side by side, in square points."""
    return max(9.0, min(45.0, 3000 / max(1, n)))


def tidy(ax: Axes, ylabel: str = "", title: str = "") -> None:
    """Plain axes: ink on white, no frame on the right and on top."""
    ax.set_facecolor("white")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    ax.tick_params(which="both", colors=INK, labelsize=TEXT, color=MUTED)
    ax.set_ylabel(ylabel, color=INK, fontsize=TEXT + 1)
    if title:
        ax.set_title(title, color=INK, fontsize=TEXT + 2, loc="left")
