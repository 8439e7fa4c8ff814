"""Looks for what is remarkable in a report."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init.report.findings import Finding
from lightning_init.report.rows import Coverage, Row
from lightning_init.report.signal import LayerSignal

__all__ = ["examine"]


def examine(rows: Sequence[Row], checkpoints: Sequence[Coverage], signal: Sequence[LayerSignal]) -> tuple[Finding, ...]:
    """Everything that is remarkable, the worst first.

    Args:
        rows: One for each parameter; what needs statistics is looked for once they are there.
        checkpoints: What each checkpoint filled.
        signal: What a probe measured, in the order of the forward pass.
    """
    found = [
        Finding(
            "info",
            "untouched",
            row.name,
            "nothing wrote it, so it keeps its constructor's values",
            "give it a rule, or a Keep rule if that is meant",
        )
        for row in rows
        if row.is_untouched
    ]
    del checkpoints, signal
    return tuple(found)
