"""The std of every parameter, measured against expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_init.report.findings import Finding
from lightning_init.report.plots.names import Grouping
from lightning_init.report.plots.scale import Panel, new_panel
from lightning_init.report.plots.style import INK, MARKS, TEXT, dot_size, looks
from lightning_init.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["STRIP", "draw_marks", "draw_spread", "kind", "standing", "strip_of"]

STRIP = ("all 0", "all 1", "one value", "NaN or inf", "empty", "not measured")
"""What a parameter without a std above zero is, from the top of the strip."""


def kind(row: Row) -> str:
    """What a row is coloured by: its initializer without arguments.

    >>> import torch
    >>> kind(Row("w", (), (1,), torch.float32, initializer="Kaiming(a=0)", source="init_cfg"))
    'Kaiming'
    """
    return row.written_by.partition("(")[0]


def standing(row: Row) -> str | None:
    """The row of the strip that a parameter belongs to; None if it has a std that can be drawn."""
    known = row.statistics
    if known is None:
        return "not measured"
    if known["nonfinite"]:
        return "NaN or inf"
    if math.isnan(known["mean"]):
        return "empty"
    if known["std"] > 0:
        return None
    # No std, or that of a single number, which is NaN.
    return {0.0: "all 0", 1.0: "all 1"}.get(known["mean"], "one value")


def strip_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The rows of the strip that these parameters need."""
    found = {standing(row) for row in rows}
    return tuple(name for name in STRIP if name in found)


def draw_spread(
    figure: Figure, specs: Sequence[SubplotSpec], rows: Sequence[Row], grouping: Grouping, worst: Mapping[str, Finding]
) -> Panel:
    """Draws the std of every parameter.

    Args:
        figure: The figure.
        specs: The places of its axes.
        rows: The parameters, in the order of registration; at least one.
        grouping: Their modules.
        worst: The worst finding of each parameter that has any.
    """
    measured = [row.statistics["std"] if row.statistics else math.nan for row in rows]
    expected = {i: row.expected.std for i, row in enumerate(rows) if row.expected and row.expected.std > 0}
    panel = new_panel(
        figure,
        specs,
        [*measured, *expected.values()],
        strip_of(rows),
        grouping,
        ylabel="std of the values (log)",
        title="Weights, in the order of registration" + (f", below {grouping.common}" if grouping.common else ""),
    )
    size = dot_size(len(rows))
    if expected:
        half = 0.42
        panel.body.hlines(
            list(expected.values()),
            [i - half for i in expected],
            [i + half for i in expected],
            color=INK,
            linewidth=1.4,
            label="expected",
            zorder=2,
        )
    places = [panel.place(std, standing(row) or "") for std, row in zip(measured, rows, strict=True)]
    chosen = looks(map(kind, rows))
    for name, (colour, marker) in chosen.items():
        for ax in filter(None, (panel.body, panel.strip)):
            at = [(i, y) for i, (where, y) in enumerate(places) if where is ax and kind(rows[i]) == name]
            if at:
                x, y = zip(*at, strict=True)
                ax.scatter(x, y, s=size, c=colour, marker=marker, label=name, zorder=3, linewidths=0)
    marked = [(i, row.name) for i, row in enumerate(rows) if row.name in worst]
    draw_marks([(*places[i], i, worst[name]) for i, name in marked], size)
    _legend(panel)
    return panel


def draw_marks(marked: Sequence[tuple[Axes, float, int, Finding]], size: float) -> None:
    """Rings errors and warnings.

    Args:
        marked: The axes, the y and the x of each mark, and what was found there.
        size: That of the dots.
    """
    for severity in ("warning", "error"):
        marker, colour = MARKS[severity]
        for ax in dict.fromkeys(ax for ax, *_, finding in marked if finding.severity == severity):
            at = [(x, y) for where, y, x, finding in marked if where is ax and finding.severity == severity]
            xs, ys = zip(*at, strict=True)
            ax.scatter(
                xs,
                ys,
                s=2.2 * size + 40,
                facecolors="none",
                edgecolors=colour,
                marker=marker,
                linewidths=1.6,
                label=severity,
                zorder=4,
                clip_on=False,
            )


def _legend(panel: Panel) -> None:
    """Above the axes, where no data is."""
    handles: dict[str, Any] = {}
    for ax in filter(None, (panel.body, panel.strip)):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    ends = [label for label in ("expected", "warning", "error") if label in handles]
    order = [*(label for label in handles if label not in ends), *ends]
    widest = max(map(len, order))
    panel.body.legend(
        [handles[label] for label in order],
        order,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=max(1, min(len(order), 120 // (widest + 6))),
        frameon=False,
        fontsize=TEXT,
        labelcolor=INK,
        handletextpad=0.3,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
