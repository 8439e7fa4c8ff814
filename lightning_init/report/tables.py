"""A report as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_init.moments import STATISTICS
from lightning_init.report.columns import COLUMNS, Cell, dtype_text, shape_text
from lightning_init.report.findings import CODES, Finding
from lightning_init.report.rows import Row
from lightning_init.text import Legend, markdown, some

__all__ = ["finding_lines", "grouped", "markdown_table", "overview"]

# What the warnings and notes of a report tell already.
_TOLD = {"untouched", "overwritten"}
_NUMBERS = {*STATISTICS, "expected_mean", "expected_std"}
# Of each trend, the numbers are what counts, and there are few.
_ALONE = {"vanishing-signal", "exploding-signal"}


def overview(rows: Sequence[Row]) -> tuple[list[tuple[str, ...]], Legend]:
    """The rows (the header first) as a narrow table, and the legend to the numbers in its "written by"."""
    legend = Legend()
    measured = any(row.statistics is not None for row in rows)
    names = ("mean", "std") if measured else ()
    header = ("parameter", "shape", "dtype", "written by", *names, "expected mean", "expected std")
    table: list[tuple[str, ...]] = [header]
    for row in rows:
        where = row.source or row.kept_by
        by = legend.number(where, row.written_by) if where else row.written_by
        found = [_number(row.statistics[name]) if row.statistics else "" for name in names]
        expected = [_number(row.expected.mean), _number(row.expected.std)] if row.expected else ["", ""]
        table.append((" = ".join((row.name, *row.aliases)), shape_text(row), dtype_text(row), by, *found, *expected))
    return table, legend


def markdown_table(records: Sequence[dict[str, Cell]]) -> str:
    """Rows as a markdown table with the names of `COLUMNS`; columns that are empty in every row are left out.

    Args:
        records: The rows, as `lightning_init.report.columns.cells` makes them.
    """
    shown = [name for name in COLUMNS if name == "name" or any(record[name] is not None for record in records)]
    return markdown(shown, [[_text(name, record[name]) for name in shown] for record in records])


def finding_lines(findings: Iterable[Finding], most: int = 5) -> list[str]:
    """A line for each finding; those of one kind, severity and source share one, with the first names.

    Args:
        findings: The findings; those that a report's warnings and notes tell anyway are left out.
        most: How many names a line has.
    """
    groups = grouped(finding for finding in findings if finding.code not in _TOLD)
    return [str(group[0]) if len(group) == 1 else _together(group, most) for group in groups]


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one kind, severity and source together, in the order of the first of each; trends stay alone."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        own = (finding.where, finding.message) if finding.code in _ALONE else ()
        groups.setdefault((finding.severity, finding.code, finding.source or "", *own), []).append(finding)
    return list(groups.values())


def _together(group: Sequence[Finding], most: int) -> str:
    first = group[0]
    declared = f" [{first.source}]" if first.source else ""
    names = some([finding.where for finding in group], most)
    return f"{first.severity}: {len(group)} times {CODES[first.code]}: {names}{declared}; {first.remedy}"


def _text(name: str, cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return _number(float(cell)) if name in _NUMBERS else str(cell)


def _number(value: float) -> str:
    return f"{value:.4g}"
