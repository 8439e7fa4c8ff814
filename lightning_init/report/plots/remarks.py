"""The findings below a figure, those that are alike in one line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_init.report.findings import Finding
from lightning_init.report.plots.style import INK, MARKS, TEXT
from lightning_init.report.signal_findings import is_about_gradients
from lightning_init.text import some

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["Remark", "draw_remarks", "height_of_remarks", "remarks"]

MOST = 8
"""How many are told; the report has all of them."""

_LINE = 0.155  # Inches.
_CHARACTERS = 170  # Of small text, on the width of a figure.


@dataclass(frozen=True)
class Remark:
    """Findings of one kind, from one line of the config.

    Attributes:
        finding: The first of them.
        text: What is told, in lines that fit.
    """

    finding: Finding
    text: tuple[str, ...]


def remarks(findings: Sequence[Finding]) -> list[Remark]:
    """What is told, the worst first."""
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        kind = (finding.severity, finding.code, finding.source, is_about_gradients(finding))
        alike.setdefault(kind, []).append(finding)
    groups = sorted(alike.values(), key=lambda those: list(MARKS).index(those[0].severity))
    told = [Remark(those[0], tuple(textwrap.wrap(_told(those), _CHARACTERS))) for those in groups[:MOST]]
    if left := sum(map(len, groups[MOST:])):
        told.append(Remark(groups[MOST][0], (f"{left} more: report.findings",)))
    return told


def _told(those: Sequence[Finding]) -> str:
    first = those[0]
    where = some([finding.where for finding in those if finding.where], 3)
    declared = f" [{first.source}]" if first.source and first.source != first.where else ""
    each = "" if len(those) == 1 else f"{len(those)} x "
    example = "" if len(those) == 1 else f", the first: {first.message}"
    told = f": {first.message}" if len(those) == 1 else example
    return f"{each}{first.code}{f' ({where})' if where else ''}{told}{declared}. Remedy: {first.remedy}"


def height_of_remarks(told: Sequence[Remark]) -> float:
    """Inches that they need."""
    return _LINE * (sum(len(remark.text) for remark in told) + 0.5)


def draw_remarks(figure: Figure, spec: SubplotSpec, told: Sequence[Remark]) -> None:
    """Writes them into axes of their own, each behind the mark that it has in the figure."""
    ax = figure.add_subplot(spec)
    lines = sum(len(remark.text) for remark in told) + 0.5
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(lines, 0)
    at = 0.5
    for remark in told:
        marker, colour = MARKS[remark.finding.severity]
        ax.scatter([0.006], [at + 0.1], s=34, fc="none", ec=colour, marker=marker, linewidths=1.6, clip_on=False)
        ax.text(0.016, at - 0.3, "\n".join(remark.text), va="top", color=INK, fontsize=TEXT, linespacing=1.25)
        at += len(remark.text)
