"""Pages of histograms, one for each parameter that is no constant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning_init.errors import InitError
from lightning_init.report.histograms import Histogram
from lightning_init.report.plots.names import short
from lightning_init.report.plots.spread import kind
from lightning_init.report.plots.style import INK, MUTED, TEXT, Look, looks, new_figure, tidy
from lightning_init.report.rows import Expected, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PER_PAGE", "draw_histograms"]

COLUMNS = 5
PER_PAGE = 40
_CELL = 1.3  # Inches.
_LINE = 34  # Characters.


def draw_histograms(rows: Sequence[Row]) -> list[Figure]:
    """Draws how the values of every parameter are spread, and what its law says.

    Args:
        rows: One for each parameter, measured with their histograms.

    Returns:
        Figures of at most `PER_PAGE` histograms each; one that says so if all parameters are constants, or if there are
        none. They belong to no backend.

    Raises:
        InitError: The rows have no histograms, or matplotlib is not installed.
    """
    if rows and all(row.histogram is None for row in rows):
        raise InitError(
            "this report holds no histograms: call report.measure(histograms=True) before report.plot_histograms()"
        )
    shown = [(row, found) for row in rows if (found := row.histogram) is not None and found.low < found.high]
    chosen = looks(kind(row) for row in rows)
    pages = [shown[i : i + PER_PAGE] for i in range(0, len(shown), PER_PAGE)] or [[]]
    return [_page(page, chosen, f"{i + 1} of {len(pages)}", len(rows) - len(shown)) for i, page in enumerate(pages)]


def _page(shown: Sequence[tuple[Row, Histogram]], chosen: dict[str, Look], number: str, left_out: int) -> Figure:
    lines = max(1, math.ceil(len(shown) / COLUMNS))
    figure = new_figure(_CELL * lines + 0.8)
    title = f"How the weights are spread, page {number}"
    if left_out:
        title += f"; {left_out} of one value or without finite ones left out"
    figure.suptitle(title, x=0.008, ha="left", color=INK, fontsize=TEXT + 2)
    for i, (row, histogram) in enumerate(shown):
        _draw(figure.add_subplot(lines, COLUMNS, i + 1), row, histogram, chosen[kind(row)][0])
    if not shown:
        ax = figure.add_subplot()
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no histograms", ha="center", va="center", color=MUTED, fontsize=TEXT + 4)
    handles = [ax.patches[0] for ax in figure.axes if ax.patches]
    named = dict(zip((kind(row) for row, _ in shown), handles, strict=False))
    if named:
        figure.legend(
            list(named.values()), list(named), loc="outside lower left", ncols=6, frameon=False, fontsize=TEXT
        )
    return figure


def _draw(ax: Axes, row: Row, histogram: Histogram, colour: str) -> None:
    tidy(ax)
    ax.tick_params(labelsize=TEXT - 2)
    edges = histogram.edges
    scale = sum(histogram.counts) * (edges[1] - edges[0])
    ax.stairs([count / scale for count in histogram.counts], edges, fill=True, color=colour)
    if row.expected is not None and (curve := list(_density(row.expected, histogram))):
        ax.plot(*zip(*curve, strict=True), color=INK, linewidth=1.0)
    std = f"  std {row.statistics['std']:.3g}" if row.statistics else ""
    ax.set_title(f"{_two_lines(row.name)}{std}", fontsize=TEXT - 1, color=INK, loc="left")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=3)


def _two_lines(name: str) -> str:
    """A name, broken behind a dot if it is too long for the width of a histogram."""
    if len(name) <= _LINE:
        return f"\n{name}"
    name = short(name, 2 * _LINE - 12)
    at = name.rfind(".", 0, _LINE) + 1 or _LINE
    return f"{name[:at]}\n{name[at:]}"


def _density(law: Expected, histogram: Histogram) -> Iterator[tuple[float, float]]:
    """The density of a normal or uniform law; nothing for a truncated one, whose parameters are not in the report."""
    low, high = histogram.low, histogram.high
    if law.std > 0 and math.isinf(law.low) and math.isinf(law.high):
        for x in (low + (high - low) * i / 100 for i in range(101)):
            z = (x - law.mean) / law.std
            yield x, math.exp(-z * z / 2) / (law.std * math.sqrt(2 * math.pi))
    elif law.std > 0 and math.isclose(law.high - law.low, law.std * math.sqrt(12), rel_tol=1e-6):
        height = 1 / (law.high - law.low)
        yield from ((law.low, 0.0), (law.low, height), (law.high, height), (law.high, 0.0))
