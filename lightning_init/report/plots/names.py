"""Names along an axis: one for each module, on a level of the tree at which they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lightning_init.report.plots.style import BAND, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Group", "Grouping", "band_groups", "group", "label_groups", "short"]

MOST = 40
"""How many groups a figure shows at best."""

FEW = 6
"""With fewer groups a deeper level is taken, and not every group is labelled."""

LONGEST = 30
"""Characters of a label."""


@dataclass(frozen=True)
class Group:
    """Neighbours on an axis that share a name.

    Attributes:
        name: That name, without what all groups have in common.
        start: The index of the first.
        stop: The index behind the last.
    """

    name: str
    start: int
    stop: int

    @property
    def middle(self) -> float:
        """Where its label belongs."""
        return (self.start + self.stop - 1) / 2


@dataclass(frozen=True)
class Grouping:
    """All groups of an axis.

    Attributes:
        common: What all of their names begin with.
        groups: The groups.
    """

    common: str
    groups: tuple[Group, ...]


def group(modules: Sequence[str]) -> Grouping:
    """Groups neighbours by the modules that they belong to, on the deepest level on which at most `MOST` groups remain.

    >>> group(["net.conv", "net.conv", "net.bn"])
    Grouping(common='net', groups=(Group(name='conv', start=0, stop=2), Group(name='bn', start=2, stop=3)))
    """
    paths = [name.split(".") if name else [] for name in modules]
    shared = _shared(paths)
    depth = max(map(len, paths), default=0)
    levels = [_at_level(paths, level) for level in range(shared, depth + 1)] or [_at_level(paths, 0)]
    chosen = next((i for i in reversed(range(len(levels))) if len(levels[i]) <= MOST), 0)
    if len(levels[chosen]) < FEW and chosen + 1 < len(levels):
        chosen += 1
    found = [Group(".".join(path[shared:]), start, stop) for path, start, stop in levels[chosen]]
    return Grouping(".".join(paths[0][:shared]) if paths else "", tuple(found))


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts all paths have in common, their last parts aside."""
    least = min((len(path) for path in paths), default=0)
    shared = 0
    while shared < least - 1 and len({path[shared] for path in paths}) == 1:
        shared += 1
    return shared


def _at_level(paths: Sequence[Sequence[str]], level: int) -> list[tuple[tuple[str, ...], int, int]]:
    found = []
    for key, members in groupby(range(len(paths)), key=lambda i: tuple(paths[i][:level])):
        indices = list(members)
        found.append((key, indices[0], indices[-1] + 1))
    return found


def short(name: str, longest: int = LONGEST) -> str:
    """A name with its middle left out if it is too long.

    >>> short("encoder.layer.0.attention.self.query", 20)
    'encoder.l…self.query'
    """
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"


def label_groups(ax: Axes, grouping: Grouping, width: float) -> None:
    """Writes the names of groups below an axis, as many as fit without touching.

    Args:
        ax: The axes at the bottom of those that share their x axis.
        grouping: The groups.
        width: Of the axes, in inches.
    """
    total = grouping.groups[-1].stop
    # Upright text is as wide as its line is high.
    room = 1.35 * TEXT / 72 / width * total
    ticks: list[float] = []
    labels: list[str] = []
    for found in grouping.groups:
        if not ticks or found.middle - ticks[-1] >= room:
            ticks.append(found.middle)
            labels.append(short(found.name) or "(root)")
    ax.set_xticks(ticks, labels, rotation=90, fontsize=TEXT)


def band_groups(ax: Axes, grouping: Grouping) -> None:
    """Shades every other group."""
    for found in grouping.groups[1::2]:
        ax.axvspan(found.start - 0.5, found.stop - 0.5, color=BAND, zorder=0, linewidth=0)
