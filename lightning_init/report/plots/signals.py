"""Forward and backward signal by depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_init.report.findings import Finding
from lightning_init.report.plots.names import Grouping, band_groups, label_groups
from lightning_init.report.plots.scale import new_panel
from lightning_init.report.plots.spread import draw_marks
from lightning_init.report.plots.style import WIDTH, dot_size, tidy
from lightning_init.report.signal import LayerSignal
from lightning_init.report.signal_findings import is_about_gradients

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["DEAD", "SIGNALS", "draw_dead", "draw_signal", "signal_strip"]

SIGNALS: Mapping[str, tuple[str, str, str]] = {
    "std": ("Forward: activations, in the order of the forward pass", "std of the output (log)", "#0072b2"),
    "gradient_std": ("Backward: gradients with respect to these outputs", "std of the gradient (log)", "#009e73"),
}
"""The title, label and colour of what is drawn of each layer."""

DEAD = ("Dead units", "share (%)", "#6a4c93")


def signal_strip(signal: Sequence[LayerSignal], what: str) -> tuple[str, ...]:
    """The rows that the strip of a signal needs; a layer without a gradient is not drawn at all."""
    found = {_standing(value) for layer in signal if not _lacks(value := getattr(layer, what), what)}
    return tuple(name for name in ("0", "NaN or inf") if name in found)


def draw_signal(
    figure: Figure,
    specs: Sequence[SubplotSpec],
    signal: Sequence[LayerSignal],
    what: str,
    grouping: Grouping,
    marked: Sequence[Finding],
    *,
    is_labelled: bool,
) -> None:
    """Draws one kind of signal, layer by layer.

    Args:
        figure: The figure.
        specs: The places of its axes.
        signal: The layers, in the order of the forward pass; at least one.
        what: A key of `SIGNALS`.
        grouping: Their names.
        marked: The findings about them that are marked, the worst last.
        is_labelled: Write the names.
    """
    title, ylabel, colour = SIGNALS[what]
    values = [float(getattr(layer, what)) for layer in signal]
    strip = signal_strip(signal, what)
    panel = new_panel(figure, specs, values, strip, grouping, ylabel=ylabel, title=title, is_labelled=is_labelled)
    places = {
        i: panel.place(value, _standing(value) or "") for i, value in enumerate(values) if not _lacks(value, what)
    }
    size = dot_size(len(signal))
    line = [(i, y) for i, (ax, y) in places.items() if ax is panel.body]
    if line:
        panel.body.plot(*zip(*line, strict=True), color=colour, linewidth=1.0, alpha=0.6, zorder=2)
    for ax in filter(None, (panel.body, panel.strip)):
        at = [(i, y) for i, (where, y) in places.items() if where is ax]
        if at:
            x, y = zip(*at, strict=True)
            ax.scatter(x, y, s=size, c=colour, zorder=3, linewidths=0)
    found = {finding.where: finding for finding in marked if is_about_gradients(finding) == (what != "std")}
    draw_marks([(*places[i], i, found[signal[i].name]) for i in places if signal[i].name in found], size)


def draw_dead(figure: Figure, specs: Sequence[SubplotSpec], signal: Sequence[LayerSignal], grouping: Grouping) -> None:
    """Draws the share of dead units, layer by layer."""
    title, ylabel, colour = DEAD
    ax = figure.add_subplot(specs[0])
    tidy(ax, ylabel, title)
    band_groups(ax, grouping)
    ax.bar(range(len(signal)), [100 * layer.dead for layer in signal], color=colour, width=0.8, zorder=2)
    ax.set_ylim(0, 100)
    ax.set_xlim(-0.7, len(signal) - 0.3)
    label_groups(ax, grouping, WIDTH - 1.5)


def _standing(value: float) -> str | None:
    if not math.isfinite(value):
        return "NaN or inf"
    return None if value > 0 else "0"


def _lacks(value: float, what: str) -> bool:
    return what == "gradient_std" and math.isnan(value)
