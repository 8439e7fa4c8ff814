"""What a model started from: rows, findings, signal, and the report that holds them."""

from lightning_init.report.checkpoints import report_of_checkpoint
from lightning_init.report.columns import COLUMNS
from lightning_init.report.diff import ReportDiff, RowChange
from lightning_init.report.findings import Finding
from lightning_init.report.histograms import Histogram
from lightning_init.report.report import InitReport
from lightning_init.report.rows import Coverage, Expected, Row
from lightning_init.report.signal import LayerSignal

__all__ = [
    "COLUMNS",
    "Coverage",
    "Expected",
    "Finding",
    "Histogram",
    "InitReport",
    "LayerSignal",
    "ReportDiff",
    "Row",
    "RowChange",
    "report_of_checkpoint",
]
