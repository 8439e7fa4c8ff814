"""A report into each of a Trainer's loggers, by the class of the logger."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.loggers import csv_files, mlflow, other, tensorboard, wandb
from lightning_init.loggers.material import Material, Writers
from lightning_init.report import InitReport

__all__ = ["WRITERS", "log_report"]

WRITERS: Mapping[type[Any], Writers] = {
    # That of a `fast_dev_run` has every method, and none does anything.
    DummyLogger: {},
    TensorBoardLogger: tensorboard.WRITERS,
    WandbLogger: wandb.WRITERS,
    MLFlowLogger: mlflow.WRITERS,
    CSVLogger: csv_files.WRITERS,
    Logger: other.WRITERS,
}
"""How a logger of each class shows a report; the first class that fits counts."""


def log_report(report: InitReport, loggers: Iterable[Logger], contents: Collection[str]) -> None:
    """Writes a measured report to loggers, each as far as it can show it.

    What a logger does not take is told in one warning for each logger, and stops neither the others nor the training.

    Args:
        report: The report, with histograms if these are asked for.
        loggers: Where to.
        contents: Some of `CONTENTS`.
    """
    material = Material(report)
    for logger in loggers:
        writers = next(found for kind, found in WRITERS.items() if isinstance(logger, kind))
        refused: dict[str, list[str]] = {}
        for content in (content for content in writers if content in contents):
            try:
                writers[content](logger, material)
            except Exception as error:  # noqa: BLE001 - whatever a logger raises, training goes on
                refused.setdefault(repr(error), []).append(content)
        if refused:
            reasons = "; ".join(f"{' and '.join(refused[reason])} ({reason})" for reason in refused)
            rank_zero_warn(f"{type(logger).__name__} did not take all of the initialisation's report: {reasons}")
