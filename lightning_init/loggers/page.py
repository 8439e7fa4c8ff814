"""A report as a page of text in markdown, for people: what is remarkable first."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init.report import Finding, InitReport
from lightning_init.text import markdown

__all__ = ["page"]

MOST_ROWS = 500
"""How many rows a page shows; TensorBoard takes seconds to render thousands, and longer to scroll them."""

MOST_FINDINGS = 50
"""How many findings it shows."""


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
    if not findings:
        return "None."
    lines = [
        [finding.severity, _code(finding.where), finding.message, finding.source or "", finding.remedy]
        for finding in findings
    ]
    more = f"\n\n... and {len(lines) - MOST_FINDINGS} more" if len(lines) > MOST_FINDINGS else ""
    return markdown(("severity", "where", "finding", "declared at", "remedy"), lines[:MOST_FINDINGS]) + more


def _code(name: str) -> str:
    """A name as code, so that none of its characters is markup."""
    return f"`{name}`" if name else ""
