"""A report in Weights & Biases."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from lightning_init.loggers.material import Material, Writers, picture, tagged

__all__ = ["WRITERS"]


def _table(logger: WandbLogger, material: Material) -> None:
    for name, (columns, data) in material.tables.items():
        logger.log_table(name, columns, data, step=0)


def _summary(logger: WandbLogger, material: Material) -> None:
    # A metric for each parameter and statistic would be a panel each.
    run: Any = logger.experiment
    run.summary.update({tagged(logger, name): value for name, value in material.totals.items()})


def _figure(logger: WandbLogger, material: Material) -> None:
    logger.log_image("init/figure", [picture(material.figure)], step=0)


def _histograms(logger: WandbLogger, material: Material) -> None:
    logger.log_image("init/histograms", [picture(page) for page in material.histograms], step=0)


def _artifact(logger: WandbLogger, material: Material) -> None:
    import wandb  # noqa: PLC0415 - the logger has imported it

    run: Any = logger.experiment
    with tempfile.TemporaryDirectory() as made:
        artifact = wandb.Artifact(f"init-report-{run.id}", type="init-report")
        for path in material.write("artifact", Path(made)):
            artifact.add_file(str(path))
        run.log_artifact(artifact)


WRITERS: Writers = {
    "table": _table,
    "scalars": _summary,
    "figure": _figure,
    "histograms": _histograms,
    "artifact": _artifact,
}
