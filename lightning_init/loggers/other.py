"""A report in any logger of Lightning's kind, as far as its public methods go."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_init.loggers.material import Material, Writers, picture

__all__ = ["WRITERS"]


def _scalars(logger: Logger, material: Material) -> None:
    logger.log_metrics(material.metrics, step=0)


def _table(logger: Logger, material: Material) -> None:
    if log_table := _method(logger, "log_table"):
        for name, (columns, data) in material.tables.items():
            log_table(name, columns=columns, data=data, step=0)


def _figure(logger: Logger, material: Material) -> None:
    if log_image := _method(logger, "log_image"):
        log_image("init/figure", images=[picture(material.figure)], step=0)


def _histograms(logger: Logger, material: Material) -> None:
    if log_image := _method(logger, "log_image"):
        log_image("init/histograms", images=[picture(page) for page in material.histograms], step=0)


def _method(logger: Logger, name: str) -> Any:
    """A method that `WandbLogger` has, and others after its example."""
    found = getattr(logger, name, None)
    return found if callable(found) else None


WRITERS: Writers = {"table": _table, "scalars": _scalars, "figure": _figure, "histograms": _histograms}
