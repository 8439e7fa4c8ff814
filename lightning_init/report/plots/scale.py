"""A logarithmic axis, and below it a strip for what has no logarithm: zeros, NaN."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_init.report.plots.names import Grouping, band_groups, label_groups
from lightning_init.report.plots.style import TEXT, WIDTH, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["BODY", "Panel", "heights_of", "new_panel"]

BODY = 2.2
"""The height of the logarithmic axes, in inches."""

_ROW = 0.17  # Of a row of the strip, in inches.
_FEW_DECADES = 2.5
_SIDES = 1.5  # Inches that the labels of the y axis take.


@dataclass(frozen=True)
class Panel:
    """Two axes that share their x axis.

    Attributes:
        body: The logarithmic axes.
        strip: The rows below; None if nothing is without a logarithm.
        rows: What the rows of the strip stand for, from the top.
    """

    body: Axes
    strip: Axes | None
    rows: tuple[str, ...]

    def place(self, value: float, otherwise: str) -> tuple[Axes, float]:
        """Where a value belongs: its axes and its y there.

        Args:
            value: The value.
            otherwise: The row of the strip that it belongs to if it has no logarithm.
        """
        if self.strip is None or (math.isfinite(value) and value > 0):
            return self.body, value
        return self.strip, float(self.rows.index(otherwise))


def heights_of(strip: Sequence[str]) -> tuple[float, ...]:
    """Inches for the axes of a panel: for the logarithmic ones, and for the strip if there is one."""
    return (BODY, _ROW * len(strip)) if strip else (BODY,)


def new_panel(
    figure: Figure,
    specs: Sequence[SubplotSpec],
    values: Sequence[float],
    strip: Sequence[str],
    grouping: Grouping,
    *,
    ylabel: str,
    title: str,
    is_labelled: bool = True,
) -> Panel:
    """Axes for values along groups of names.

    Args:
        figure: The figure.
        specs: The places of its axes, as many as `heights_of` has numbers.
        values: All that will be shown, for the limits; those without a logarithm are passed over.
        strip: What the rows of the strip stand for.
        grouping: The names along the x axis.
        ylabel: What is shown.
        title: Above the axes.
        is_labelled: Write the names.
    """
    body = figure.add_subplot(specs[0])
    below = figure.add_subplot(specs[1], sharex=body) if strip else None
    tidy(body, ylabel, title)
    body.set_yscale("log")
    _limit(body, [value for value in values if math.isfinite(value) and value > 0])
    body.set_xlim(-0.7, grouping.groups[-1].stop - 0.3)
    body.grid(axis="y", color="#dddddd", linewidth=0.6)
    band_groups(body, grouping)
    if below is not None:
        tidy(below)
        band_groups(below, grouping)
        below.set_ylim(len(strip) - 0.5, -0.5)
        below.set_yticks(range(len(strip)), list(strip), fontsize=TEXT)
        body.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
        body.spines["bottom"].set_visible(False)
        below.spines["top"].set_visible(True)
    bottom = below or body
    if is_labelled:
        label_groups(bottom, grouping, WIDTH - _SIDES)
    else:
        bottom.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    return Panel(body, below, tuple(strip))


def _limit(ax: Axes, values: Sequence[float]) -> None:
    """At least a decade, with room around the marks, and more numbers where there are few decades."""
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (-1.0, 0.0)
    room = max(0.12, 0.08 * (high - low), (1 - (high - low)) / 2)
    # What float64 can hold.
    ax.set_ylim(10 ** max(low - room, -307), 10 ** min(high + room, 308))
    if high - low < _FEW_DECADES:
        ticker: Any = importlib.import_module("matplotlib.ticker")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
