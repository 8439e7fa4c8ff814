"""Tables onto the console: with rich in a terminal, if it is installed, as plain columns elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from lightning_init.text import columns

__all__ = ["print_table"]

_WIDE = 240
"""Columns that rich may take: a narrow terminal breaks a long line better than rich cuts the names in it."""

_STYLES = {"error": "red", "warning": "yellow"}


def print_table(
    rows: Sequence[Sequence[str]], below: Sequence[str] = (), *, title: str = "", spare: Sequence[str] = ()
) -> None:
    """Prints a table and what stands below it.

    Args:
        rows: The rows, the header first.
        below: Further lines; one that begins with ``error:`` or ``warning:`` has the colour of that.
        title: The line above.
        spare: The columns that a terminal goes without if it is too narrow for all, the first of them first.
    """
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        print("\n".join([*([title, ""] if title else []), columns(rows), *below]))  # noqa: T201 - its very purpose
        return
    from rich.console import Console  # noqa: PLC0415 - an optional extra
    from rich.markup import escape  # noqa: PLC0415 - an optional extra
    from rich.table import Table  # noqa: PLC0415 - an optional extra

    width = Console().width
    rows, missing = _fitting(rows, spare, width)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    header, *body = rows
    for name in header:
        table.add_column(name, no_wrap=True)
    for cells in body:
        table.add_row(*map(escape, cells))
    console = Console(width=max(width, _WIDE))
    console.print(table)
    left_out = [f"left out, for want of room: {', '.join(missing)}"] if missing else []
    for line in [*left_out, *below]:
        style = _STYLES.get(line.partition(":")[0])
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _fitting(
    rows: Sequence[Sequence[str]], spare: Sequence[str], width: int
) -> tuple[Sequence[Sequence[str]], list[str]]:
    """The rows without as many of the spare columns as it takes to fit, and the names of these."""
    missing: list[str] = []
    for name in spare:
        if max(map(len, columns(rows).splitlines()), default=0) <= width:
            break
        i = list(rows[0]).index(name)
        rows = [[*row[:i], *row[i + 1 :]] for row in rows]
        missing.append(name)
    return rows, missing
