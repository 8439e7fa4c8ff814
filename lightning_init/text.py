"""Plain text: tables, and lists of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Legend", "columns", "markdown", "quoted", "some"]


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Aligned columns, two spaces apart; what does not print, such as a line's end, is escaped.

    >>> print(columns([("name", "shape"), ("head.weight", "10x4")]))
    name         shape
    head.weight  10x4
    """
    if not rows:
        return ""
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def quoted(names: Iterable[object], most: int = 5) -> str:
    """The same, with names as Python writes them.

    >>> quoted(("a", "b", "c"), 2)
    "'a', 'b' and 1 more"
    """
    return some(list(map(repr, names)), most)


class Legend:
    """Numbers that stand for long texts in the rows of a table, and the lines below it that explain them.

    >>> legend = Legend()
    >>> legend.number("init_cfg[0]", "Normal(std=1)"), legend.number("init_cfg[0]", "Normal(std=1)")
    ('[1]', '[1]')
    >>> print(legend)
    [1]  init_cfg[0]  Normal(std=1)
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], str] = {}

    def number(self, *text: str) -> str:
        """The number of a text, which may have several columns; a new one for a new text."""
        return self._numbers.setdefault(text, f"[{len(self._numbers) + 1}]")

    def __str__(self) -> str:
        return columns([(number, *text) for text, number in self._numbers.items()])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A markdown table.

    >>> print(markdown(["a"], [["x|y"]]))
    | a |
    | --- |
    | x\|y |
    """
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
