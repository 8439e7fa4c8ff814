"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["columns", "markdown"]


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Aligned columns, two spaces apart.

    >>> print(columns([("name", "shape"), ("head.weight", "10x4")]))
    name         shape
    head.weight  10x4
    """
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A markdown table.

    >>> print(markdown(["a"], [["x|y"]]))
    | a |
    | --- |
    | x\|y |
    """
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
