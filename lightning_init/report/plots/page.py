"""The figure of a report: weights, signal, findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from lightning_init.errors import InitError
from lightning_init.report.findings import SEVERITIES, Finding
from lightning_init.report.plots.names import LONGEST, Grouping, group
from lightning_init.report.plots.remarks import draw_remarks, height_of_remarks, remarks
from lightning_init.report.plots.scale import heights_of
from lightning_init.report.plots.signals import SIGNALS, draw_dead, draw_signal, signal_strip
from lightning_init.report.plots.spread import draw_spread, strip_of
from lightning_init.report.plots.style import INK, MUTED, TEXT, new_figure, tidy
from lightning_init.report.rows import Row
from lightning_init.report.signal import LayerSignal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["check_measured", "draw_report"]

_DEAD = 0.8  # The height of its axes, in inches.
_TITLE = 0.45


def draw_report(
    rows: Sequence[Row],
    findings: Sequence[Finding] = (),
    signal: Sequence[LayerSignal] = (),
    *,
    seed: int | None = None,
) -> Figure:
    """Draws what a model started from.

    Args:
        rows: One for each parameter, measured.
        findings: What is remarkable about them and the signal.
        signal: What a probe measured.
        seed: The seed, for the title.

    Returns:
        A figure that belongs to no backend; ``figure.savefig("init.png")`` writes it.

    Raises:
        InitError: The rows are not measured, or matplotlib is not installed.
    """
    check_measured(rows, "report.plot()")
    told = remarks(findings)
    marked = [finding for severity in ("warning", "error") for finding in findings if finding.severity == severity]
    parts = [*_of_rows(rows, marked), *_of_signal(signal, marked)]
    if not parts:
        parts.append(_Part((1.0,), _draw_nothing))
    if told:
        parts.append(_Part((height_of_remarks(told),), lambda figure, specs: draw_remarks(figure, specs[0], told)))
    heights = [height for part in parts for height in part.heights]
    figure = new_figure(sum(heights) + sum(part.labels for part in parts) + _TITLE)
    figure.suptitle(_headline(rows, findings, seed), x=0.008, ha="left", color=INK, fontsize=TEXT + 3)
    # One grid for all, so that the axes of all parts stand in line.
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    specs = [grid[i] for i in range(len(heights))]
    for part in parts:
        own, specs = specs[: len(part.heights)], specs[len(part.heights) :]
        part.draw(figure, own)
    return figure


@dataclass(frozen=True)
class _Part:
    """What stands in the figure, from the top to the bottom.

    Attributes:
        heights: Of its axes, in inches.
        draw: Draws it into places for these.
        labels: Inches that its title and names need besides.
    """

    heights: tuple[float, ...]
    draw: Callable[[Figure, Sequence[SubplotSpec]], object]
    labels: float = 0.0


def _of_rows(rows: Sequence[Row], marked: Sequence[Finding]) -> list[_Part]:
    if not rows:
        return []
    modules = group([_module(row) for row in rows])
    worst = {finding.where: finding for finding in marked}
    draw = partial(draw_spread, rows=rows, grouping=modules, worst=worst)
    return [_Part(heights_of(strip_of(rows)), draw, _TITLE + _height_of_names(modules))]


def _of_signal(signal: Sequence[LayerSignal], marked: Sequence[Finding]) -> list[_Part]:
    if not signal:
        return []
    layers = group([layer.name for layer in signal])
    kinds = [what for what in SIGNALS if not all(math.isnan(getattr(layer, what)) for layer in signal)] or ["std"]
    has_dead = any(layer.dead > 0 for layer in signal)
    parts = []
    for what in kinds:
        is_last = what == kinds[-1] and not has_dead
        draw = partial(draw_signal, signal=signal, what=what, grouping=layers, marked=marked, is_labelled=is_last)
        names = _height_of_names(layers) if is_last else 0.0
        parts.append(_Part(heights_of(signal_strip(signal, what)), draw, _TITLE / 2 + names))
    if has_dead:
        draw_share = partial(draw_dead, signal=signal, grouping=layers)
        parts.append(_Part((_DEAD,), draw_share, _TITLE / 2 + _height_of_names(layers)))
    return parts


def check_measured(rows: Sequence[Row], call: str) -> None:
    """Refuses rows that have not been measured.

    Args:
        rows: The rows; none at all are fine.
        call: What was called, for the message.

    Raises:
        InitError: None of them has statistics.
    """
    if rows and all(row.statistics is None for row in rows):
        raise InitError(f"this report has not been measured: call report.measure() before {call}")


def _draw_nothing(figure: Figure, specs: Sequence[SubplotSpec]) -> None:
    ax = figure.add_subplot(specs[0])
    tidy(ax)
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no parameters", ha="center", va="center", color=MUTED, fontsize=TEXT + 4)


def _headline(rows: Sequence[Row], findings: Sequence[Finding], seed: int | None) -> str:
    elements = sum(torch.Size(row.shape).numel() for row in rows)
    counts = {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES}
    names = {"error": "error", "warning": "warning", "info": "remark"}
    found = [f"{n} {names[name]}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    parts = [
        f"{len(rows)} parameters" if len(rows) != 1 else "1 parameter",
        f"{elements:,} numbers",
        *([] if seed is None else [f"seed {seed}"]),
        *(found or ["no findings"]),
    ]
    return f"What the weights start from: {', '.join(parts)}"


def _module(row: Row) -> str:
    """What a parameter is grouped by: its module, or for one of the root its own name."""
    return row.name.rpartition(".")[0] or row.name


def _height_of_names(grouping: Grouping) -> float:
    """Inches that the names below an axis need."""
    return 0.15 + 0.075 * min(LONGEST, max((len(found.name) for found in grouping.groups), default=0))
