"""Figures of a report; matplotlib is imported when one is drawn."""

from lightning_init.report.plots.histograms import draw_histograms
from lightning_init.report.plots.page import draw_report
from lightning_init.report.plots.statistics import draw_statistic

__all__ = ["draw_histograms", "draw_report", "draw_statistic"]
