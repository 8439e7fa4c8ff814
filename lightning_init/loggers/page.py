"""A report as a page of text in markdown, for people: what is remarkable first."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init.report import Finding, InitReport
from lightning_init.report.findings import CODES
from lightning_init.report.tables import grouped
from lightning_init.text import markdown, some

__all__ = ["page"]

MOST_ROWS = 500
"""How many rows a page shows; TensorBoard takes seconds to render thousands, and longer to scroll them."""

MOST_FINDINGS = 50
"""How many kinds of findings it shows."""


def page(report: InitReport, findings: Sequence[Finding]) -> str:
    """The findings and the rows of a report, and the legend to the rows.

    Args:
        report: The report.
        findings: Its findings, the worst first.
    """
    (header, *rows), legend = report.overview()
    seed = "" if report.seed is None else f", seed {report.seed}"
    parts = [f"{len(report)} parameters, {report.totals()['elements']:,.0f} elements{seed}"]
    parts += ["#### Findings", _findings(findings)]
    parts += ["#### Parameters", markdown(header, [[_code(name), *rest] for name, *rest in rows[:MOST_ROWS]])]
    if len(rows) > MOST_ROWS:
        parts.append(f"... and {len(rows) - MOST_ROWS} more parameters")
    if written := str(legend):
        parts += ["#### Written by", f"```\n{written}\n```"]
    return "\n\n".join(parts)


def _findings(findings: Sequence[Finding]) -> str:
    # Not a table: TensorBoard breaks the words in its narrow columns.
    groups = grouped(findings)
    lines = [f"- {_line(group)}" for group in groups[:MOST_FINDINGS]]
    if len(groups) > MOST_FINDINGS:
        lines.append(f"- ... and {len(groups) - MOST_FINDINGS} more")
    return "\n".join(lines) or "None."


def _line(group: Sequence[Finding]) -> str:
    first = group[0]
    names = some([_code(finding.where) for finding in group])
    message = first.message if len(group) == 1 else f"{CODES[first.code]}, {len(group)} times"
    declared = f" (declared at {_code(first.source)})" if first.source and first.source != first.where else ""
    return f"{' '.join(filter(None, [f'**{first.severity}**', names]))}: {message}{declared}; {first.remedy}"


def _code(name: str) -> str:
    """A name as code, so that none of its characters is markup."""
    if not name:
        return ""
    return f"`` {name} ``" if "`" in name else f"`{name}`"
