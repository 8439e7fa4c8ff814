"""What is remarkable about who wrote what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lightning_init.elsewhere import FILLERS
from lightning_init.report.findings import Finding
from lightning_init.report.rows import Coverage, Row
from lightning_init.text import some

__all__ = ["source_findings"]

_LITTLE = 0.5


def source_findings(rows: Sequence[Row], checkpoints: Sequence[Coverage]) -> Iterator[Finding]:
    """Parameters that nothing wrote, or the wrong one, and checkpoints that filled little."""
    loaded = {coverage.source: coverage.checkpoint for coverage in checkpoints}
    by_name = {row.name: row for row in rows}
    for coverage in checkpoints:
        yield from _low_coverage(coverage, by_name)
    for row in rows:
        if row.overwrites is not None:
            yield _overwritten(row, row.overwrites, loaded)
        if row.is_random and not row.trainable:
            yield Finding(
                "warning",
                "frozen-random",
                row.name,
                "it wants no gradient, so it keeps the random numbers that its rule drew",
                "load it from a checkpoint, protect it with a Keep rule, or let it train",
                row.source,
            )
        if row.is_untouched:
            yield Finding(
                "info",
                "untouched",
                row.name,
                "nothing wrote it, so it keeps its constructor's values",
                "give it a rule, or a Keep rule if that is meant",
            )


def _low_coverage(coverage: Coverage, rows: Mapping[str, Row]) -> Iterator[Finding]:
    """Half of the parameters in its scope are few; where rules wrote all the others, that may well be meant."""
    missing = [name for name in coverage.missing if name in rows]
    filled = [name for name in coverage.loaded if name in rows]
    if len(filled) >= _LITTLE * (len(filled) + len(missing)):
        return
    is_open = any(rows[name].is_untouched for name in missing)
    yield Finding(
        "warning" if is_open else "info",
        "low-coverage",
        coverage.source,
        f"{coverage.checkpoint!r} filled {len(filled)} of the {len(filled) + len(missing)} parameters in its scope, "
        f"without {some(missing)}",
        "compare the names with lightning_init.checkpoint.inspect, and say how much has to fit with min_match",
        coverage.source,
    )


def _overwritten(row: Row, by: str, loaded: Mapping[str, str]) -> Finding:
    if by in FILLERS:
        # Only a rule that reaches it by name does this, or a checkpoint.
        severity, told = "info", f"what {by} had filled was written over"
    else:
        # A checkpoint over a checkpoint is how parts of several models are put together.
        severity = "info" if row.source in loaded else "warning"
        told = f"what the checkpoint of {by} loaded was written over"
    return Finding(
        "warning" if severity == "warning" else "info",
        "overwritten",
        row.name,
        f"{told} by {row.written_by}",
        "narrow the rule, or make it an override of the checkpoint's rule if it is meant",
        row.source,
    )
