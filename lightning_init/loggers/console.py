"""A report on the console."""

from __future__ import annotations

from lightning_init.console import print_table
from lightning_init.loggers.page import MOST_ROWS
from lightning_init.report import InitReport
from lightning_init.report.tables import finding_lines

__all__ = ["show"]


def show(report: InitReport) -> None:
    """Prints a report, with its findings below: with rich in a terminal, if it is installed."""
    (header, *rows), legend = report.overview()
    more = [f"... and {len(rows) - MOST_ROWS} more parameters"] if len(rows) > MOST_ROWS else []
    print()  # noqa: T201 - this is what the function is for
    print_table(
        [header, *rows[:MOST_ROWS]],
        [*more, str(legend), *finding_lines(report.findings), ""],
        title=f"What the weights start from (seed {report.seed})",
        spare=("dtype", "shape"),
    )
