"""A report in TensorBoard."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_init.loggers.material import Material, Writers, picture, tagged
from lightning_init.report import Histogram, Row

__all__ = ["WRITERS"]


def _scalars(logger: TensorBoardLogger, material: Material) -> None:
    with _writer(logger) as writer:
        if not _is_torchs(writer):
            logger.log_metrics(material.metrics, step=0)
            return
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415 - it is there if its writer is

        # One event for all: with one for each, writing takes several times as long and reading is slower.
        values = [Summary.Value(tag=tagged(logger, name), simple_value=x) for name, x in material.metrics.items()]
        writer._get_file_writer().add_summary(Summary(value=values), 0)  # noqa: SLF001 - Lightning does it so as well


def _table(logger: TensorBoardLogger, material: Material) -> None:
    with _writer(logger) as writer:
        writer.add_text(tagged(logger, "init"), material.page, 0)


def _figure(logger: TensorBoardLogger, material: Material) -> None:
    import numpy as np  # noqa: PLC0415 - it comes with matplotlib

    pixels = np.asarray(picture(material.figure))
    with _writer(logger) as writer:
        writer.add_image(tagged(logger, "init"), pixels, 0, dataformats="HWC")


def _histograms(logger: TensorBoardLogger, material: Material) -> None:
    with _writer(logger) as writer:
        for row in material.report:
            if row.histogram is not None:
                total, squares = _sums(row, row.histogram)
                writer.add_histogram_raw(
                    tagged(logger, f"init/{row.name}"),
                    min=row.histogram.low,
                    max=row.histogram.high,
                    num=sum(row.histogram.counts),
                    sum=total,
                    sum_squares=squares,
                    bucket_limits=row.histogram.edges[1:],
                    bucket_counts=row.histogram.counts,
                    global_step=0,
                )


WRITERS: Writers = {"table": _table, "scalars": _scalars, "figure": _figure, "histograms": _histograms}


def _sums(row: Row, histogram: Histogram) -> tuple[float, float]:
    """The sum and the sum of squares of what a histogram counts: of the finite values."""
    if row.statistics and not row.statistics["nonfinite"]:
        return row.statistics["mean"] * sum(histogram.counts), row.statistics["l2_norm"] ** 2
    # Only the bins are known of the finite ones alone.
    weighted = [
        (low / 2 + high / 2, count)
        for (low, high), count in zip(pairwise(histogram.edges), histogram.counts, strict=True)
    ]
    return math.fsum(x * n for x, n in weighted), math.fsum(x * x * n for x, n in weighted)


@contextmanager
def _writer(logger: TensorBoardLogger) -> Iterator[Any]:
    """The logger's writer; what does not reach the disk is taken back, so that training can go on logging."""
    writer: Any = logger.experiment
    if not _is_torchs(writer):
        yield writer
        writer.flush()
        return
    writer.flush()
    path = Path(writer._get_file_writer().event_writer._file_name)  # noqa: SLF001 - there is no public way to ask
    size = path.stat().st_size if path.exists() else None  # of a file in a remote store nothing can be taken back
    try:
        yield writer
        writer.flush()
    except OSError:
        # The thread that writes has ended for good, and half an event may have filled the disk.
        writer.file_writer = writer.all_writers = None
        if size is not None:
            os.truncate(path, size)
        raise


def _is_torchs(writer: Any) -> bool:
    """And not that of tensorboardX, which Lightning takes where TensorBoard is not installed."""
    return type(writer).__module__.startswith("torch.")
