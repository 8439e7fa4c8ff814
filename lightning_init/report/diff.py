"""What is different between two reports, as data and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightning_init.moments import STATISTICS
from lightning_init.report.columns import COLUMNS, Cell
from lightning_init.report.rows import Row
from lightning_init.text import columns

__all__ = ["ReportDiff", "RowChange", "difference"]

# What a file has as well; it knows of no modules and rules.
_OF_FILES = ("shape", "dtype", *STATISTICS)
# These may cancel to nearly nothing: they are compared on the scale of the numbers that they are made of.
_SCALED = {"mean", "std", "min", "max"}


@dataclass(frozen=True)
class RowChange:
    """One parameter that is not the same.

    Attributes:
        name: Its name.
        cells: What was and what is, by the names of `lightning_init.report.COLUMNS`, of the columns that changed.
    """

    name: str
    cells: Mapping[str, tuple[Cell, Cell]]


@dataclass(frozen=True)
class ReportDiff:
    """The difference between two reports: true if there is one, as long as the parameters that it is about.

    Attributes:
        added: The parameters that only the second report has.
        removed: Those that only the first one has.
        changed: Those that both have and that differ, in the order of the first.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[RowChange, ...] = ()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)

    def __str__(self) -> str:
        table = [("name", "column", "before", "after")]
        table += [(name, "", "there", "-") for name in self.removed]
        table += [(name, "", "-", "there") for name in self.added]
        for change in self.changed:
            table += [(change.name, column, *_texts(*cells)) for column, cells in change.cells.items()]
        return columns(table) if self else "no difference"


def difference(
    before: Sequence[tuple[Row, Mapping[str, Cell]]], after: Sequence[tuple[Row, Mapping[str, Cell]]], tolerance: float
) -> ReportDiff:
    """Compares rows by name; a tied parameter is found under any of its names.

    Args:
        before: The rows of the first report, each with its cells.
        after: Those of the second.
        tolerance: How far apart statistics may be, relative to the larger one; mean, std, min and max relative to the
            mean magnitude, if that is larger.
    """
    by_name = {name: pair for pair in after for name in (pair[0].name, *pair[0].aliases)}
    met = set()
    removed, changed = [], []
    for row, cells in before:
        found = next((by_name[name] for name in (row.name, *row.aliases) if name in by_name), None)
        if found is None:
            removed.append(row.name)
            continue
        met.add(found[0].name)
        differing = dict(_differing(row, cells, *found, tolerance))
        if differing:
            changed.append(RowChange(row.name, differing))
    added = tuple(row.name for row, _ in after if row.name not in met)
    return ReportDiff(added, tuple(removed), tuple(changed))


def _differing(
    row: Row, cells: Mapping[str, Cell], other: Row, others: Mapping[str, Cell], tolerance: float
) -> Iterator[tuple[str, tuple[Cell, Cell]]]:
    both_measured = row.statistics is not None and other.statistics is not None
    scale = max(_size(cells["abs_mean"]), _size(others["abs_mean"]))
    for column in COLUMNS if row.layer and other.layer else _OF_FILES:
        one, two = cells[column], others[column]
        if column in STATISTICS:
            same = not both_measured or _close(one, two, tolerance, scale if column in _SCALED else 0.0)
        elif column == "aliases":
            # Which of its names is the first is a matter of the order of registration.
            same = {row.name, *row.aliases} == {other.name, *other.aliases}
        else:
            # Tied parameters may have another first name, and most findings need statistics.
            same = one == two or column == "name" or (column == "findings" and not both_measured)
        if not same:
            yield column, (one, two)


def _size(cell: Cell) -> float:
    return abs(cell) if isinstance(cell, float) and math.isfinite(cell) else 0.0


def _close(one: Cell, two: Cell, tolerance: float, scale: float) -> bool:
    if not (isinstance(one, float) and isinstance(two, float)) or not (math.isfinite(one) and math.isfinite(two)):
        return repr(one) == repr(two)
    return abs(one - two) <= tolerance * max(abs(one), abs(two), scale)


def _texts(one: Cell, two: Cell) -> tuple[str, str]:
    """Both as text, with as many digits as tell them apart."""
    if isinstance(one, float) and isinstance(two, float):
        short = f"{one:.4g}", f"{two:.4g}"
        return short if short[0] != short[1] else (repr(one), repr(two))
    return "-" if one is None else str(one), "-" if two is None else str(two)
