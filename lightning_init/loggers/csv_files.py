"""A report beside the ``metrics.csv`` of a `CSVLogger`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec
from lightning.pytorch.loggers import CSVLogger

from lightning_init.loggers.material import Content, Material, Writers

__all__ = ["WRITERS"]


def _totals(logger: CSVLogger, material: Material) -> None:
    # A column for each parameter and statistic would be carried by every later row of metrics.csv.
    logger.log_metrics({**material.totals}, step=0)


def _files(content: Content) -> Callable[[CSVLogger, Material], None]:
    def write(logger: CSVLogger, material: Material) -> None:
        system, folder = fsspec.core.url_to_fs(logger.log_dir)
        with tempfile.TemporaryDirectory() as made:
            for source in material.write(content, Path(made)):
                target = f"{folder}/{source.name}"
                try:
                    system.makedirs(folder, exist_ok=True)
                    system.put_file(str(source), target)
                except Exception:
                    # Half a file may have filled the disk, on which training logs.
                    with suppress(Exception):
                        system.rm_file(target)
                    raise

    return write


WRITERS: Writers = {
    "table": _files("table"),
    "scalars": _totals,
    "figure": _files("figure"),
    "histograms": _files("histograms"),
    "artifact": _files("artifact"),
}
