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


def print_table(rows: Sequence[Sequence[str]], below: Sequence[str] = (), *, title: str = "") -> None:
    """Prints a table and what stands below it.

    Args:
        rows: The rows, the header first.
        below: Further lines; one that begins with ``error:`` or ``warning:`` has the colour of that.
        title: The line above.
    """
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        print("\n".join([*([title, ""] if title else []), columns(rows), *below]))  # noqa: T201 - its very purpose
        return
    from rich.console import Console  # noqa: PLC0415 - an optional extra
    from rich.markup import escape  # noqa: PLC0415 - an optional extra
    from rich.table import Table  # noqa: PLC0415 - an optional extra

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    header, *body = rows
    for name in header:
        table.add_column(name, no_wrap=True)
    for cells in body:
        table.add_row(*map(escape, cells))
    console = Console(width=max(Console().width, _WIDE))
    console.print(table)
    for line in below:
        style = _STYLES.get(line.partition(":")[0])
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
