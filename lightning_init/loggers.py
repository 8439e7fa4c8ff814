"""A report into Lightning's loggers and onto the console."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_init.console import print_table
from lightning_init.report import InitReport
from lightning_init.tree import slots

__all__ = ["CONTENTS", "log_report", "show"]

CONTENTS: tuple[str, ...] = ("scalars", "table", "histograms")
"""What can be logged."""


def log_report(report: InitReport, loggers: Iterable[Logger], contents: Collection[str], module: nn.Module) -> None:
    """Writes a measured report to loggers, each as far as it can show it.

    A logger that fails is told in a warning and does not stop the others.

    Args:
        report: The report.
        loggers: Where to.
        contents: Some of `CONTENTS`.
        module: The module, for histograms.
    """
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                _to_tensorboard(report, logger, contents, module)
            elif isinstance(logger, CSVLogger):
                _to_csv(report, logger, contents)
            elif "scalars" in contents:
                logger.log_metrics(_scalars(report), step=0)
        except Exception as error:  # noqa: BLE001 - whatever a logger raises, training goes on
            rank_zero_warn(f"{type(logger).__name__} did not take the initialisation's report: {error!r}")


def show(report: InitReport) -> None:
    """Prints a report: with rich in a terminal, if it is installed, as plain columns elsewhere."""
    rows, legend = report.overview()
    print()  # noqa: T201 - this is what the function is for
    print_table(rows, [str(legend), ""], title=f"What the weights start from (seed {report.seed})")


def _to_tensorboard(
    report: InitReport, logger: TensorBoardLogger, contents: Collection[str], module: nn.Module
) -> None:
    if "scalars" in contents:
        logger.log_metrics(_scalars(report), step=0)
    # The experiment is a SummaryWriter, which Lightning types as one of two.
    writer: Any = logger.experiment
    if "table" in contents:
        writer.add_text("init", report.to_markdown(), 0)
    if "histograms" in contents:
        for name, tensor in _histograms(report, module).items():
            writer.add_histogram(f"init/{name}", tensor, 0)


def _to_csv(report: InitReport, logger: CSVLogger, contents: Collection[str]) -> None:
    # A column for each parameter and statistic would be carried by every later row of metrics.csv.
    if {"scalars", "table"} & set(contents):
        folder = Path(logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report.to_csv(folder / "init_stats.csv")
    if "scalars" in contents:
        logger.log_metrics({f"init/{name}": value for name, value in report.totals().items()}, step=0)


def _scalars(report: InitReport) -> dict[str, float]:
    """``init/<parameter>/<statistic>``, without the NaN of a statistic that a tensor is too small for."""
    return {
        f"init/{row.name}/{name}": value
        for row in report
        for name, value in (row.statistics or {}).items()
        if not math.isnan(value) or math.prod(row.shape) >= (2 if name == "std" else 1)
    }


def _histograms(report: InitReport, module: nn.Module) -> Mapping[str, Tensor]:
    """The finite values of each parameter, in a type that histograms can be made of."""
    tensors = {slot.name: slot.tensor for slot in slots(module)}
    found = {}
    for row in report:
        if row.statistics is not None and row.name in tensors:
            values = tensors[row.name].detach().flatten().to("cpu", torch.float32, copy=True)
            values = values[torch.isfinite(values)]
            if values.numel():
                found[row.name] = values
    return found
