"""One statistic of named tensors, or how it moves over several measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_init.errors import InitError, did_you_mean
from lightning_init.moments import STATISTICS
from lightning_init.report.plots.names import Grouping, group, label_groups
from lightning_init.report.plots.style import INK, TEXT, WIDTH, dot_size, looks, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_statistic"]

Measured = Mapping[str, Mapping[str, float]]

_MOST_LINES = 12


def draw_statistic(
    measured: Measured | Sequence[Measured], ax: Axes | None = None, *, statistic: str = "std"
) -> tuple[Figure, Axes]:
    """Draws one statistic.

    Args:
        measured: What ``WeightStatistics.compute`` gave: a dot for each name. Several of these are drawn as lines over
            their index, one for each name.
        ax: Where to draw; by default a new figure.
        statistic: Which one.

    Returns:
        The figure and the axes.

    Raises:
        InitError: There is no such statistic, or matplotlib is not installed.
    """
    if statistic not in STATISTICS:
        raise InitError(f"no statistic {statistic!r}; {did_you_mean(statistic, STATISTICS)}")
    if ax is None:
        ax = new_figure(4.0).add_subplot()
    tidy(ax, statistic)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    if isinstance(measured, Mapping):
        _dots(ax, {name: found[statistic] for name, found in measured.items()})
    else:
        _lines(ax, measured, statistic)
    figure = ax.get_figure(root=True)
    if figure is None:
        raise InitError("the axes belong to no figure")
    return figure, ax


def _dots(ax: Axes, values: Mapping[str, float]) -> None:
    ax.scatter(range(len(values)), list(values.values()), s=dot_size(len(values)), c="#0072b2")
    if values:
        grouping = group(list(values))
        label_groups(ax, Grouping("", grouping.groups), WIDTH - 1.5)


def _lines(ax: Axes, measured: Sequence[Measured], statistic: str) -> None:
    names = list(dict.fromkeys(name for one in measured for name in one))
    chosen = looks(names)
    for name in names:
        colour, marker = chosen[name]
        points = [(i, one[name][statistic]) for i, one in enumerate(measured) if name in one]
        ax.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
    ax.set_xlabel("measurement", color=INK, fontsize=TEXT + 1)
    ax.set_xticks(range(len(measured)))
    if 0 < len(names) <= _MOST_LINES:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=TEXT)
