"""Looks for what is remarkable in a report."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init.report.findings import SEVERITIES, Finding
from lightning_init.report.law_findings import law_findings
from lightning_init.report.rows import Coverage, Row
from lightning_init.report.signal import LayerSignal
from lightning_init.report.signal_findings import signal_findings
from lightning_init.report.source_findings import source_findings
from lightning_init.report.value_findings import value_findings

__all__ = ["examine"]


def examine(
    rows: Sequence[Row], checkpoints: Sequence[Coverage], signal: Sequence[LayerSignal], probe_error: str = ""
) -> tuple[Finding, ...]:
    """Everything that is remarkable, the worst first.

    Args:
        rows: One for each parameter; what needs statistics is looked for once they are there.
        checkpoints: What each checkpoint filled.
        signal: What a probe measured, in the order of the forward pass.
        probe_error: Why a probe measured nothing.
    """
    loaded = {coverage.source: coverage.checkpoint for coverage in checkpoints}
    found = [
        *value_findings(rows, loaded),
        *law_findings(rows),
        *source_findings(rows, checkpoints),
        *signal_findings(rows, signal, probe_error),
    ]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
