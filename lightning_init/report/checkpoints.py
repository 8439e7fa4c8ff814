"""A report of a checkpoint: what its tensors are, without a module to put them into."""

from __future__ import annotations

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.comparison import Track
from lightning_init.checkpoint.inspection import offered
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.chunks import is_measurable
from lightning_init.moments import moments_of_all, statistics
from lightning_init.report.histograms import histograms_of_all
from lightning_init.report.report import InitReport
from lightning_init.report.rows import Row

__all__ = ["report_of_checkpoint"]


def report_of_checkpoint(initializer: PretrainedInit, *, histograms: bool = False, track: Track = iter) -> InitReport:
    """Measures what a ``Pretrained`` would load. One tensor at a time is in memory; no code of the file is run.

    Buffers have rows as well. Its findings are those that statistics alone give, so none is about rules.

    Args:
        initializer: The checkpoint, and which of its keys are wanted under which names.
        histograms: Count how the values are spread as well, into `Row.histogram`.
        track: Called with the names whose values are going to be read.

    Returns:
        A report without a module, with one row for each tensor; rows have no layer and no source.

    Raises:
        CheckpointError: It cannot be read.
    """
    with initializer.open() as opened:
        found = offered(opened, initializer.key_rules)
        keys = found.keys_by_name()
        rows = [_row(opened, keys[name], name, histograms=histograms) for name in track(list(keys))]
        return InitReport(None, rows, notes=found.notes)


def _row(opened: Checkpoint, key: str, name: str, *, histograms: bool) -> Row:
    entry = opened.entries[key]
    tensor = opened.read(key)
    readable = {name: tensor} if is_measurable(tensor) else {}
    moments = moments_of_all(readable)
    spread = histograms_of_all(readable, moments) if histograms else {}
    measured = {known: statistics(found) for known, found in moments.items()}
    # Without a module, name and shape have to tell a weight matrix.
    is_matrix = name.rpartition(".")[2] == "weight" and tensor.dim() > 1 and min(tensor.shape[:2]) > 1
    return Row(
        name,
        (),
        entry.shape,
        entry.dtype,
        device="",
        units=tensor.shape[0] if is_matrix else 0,
        statistics=measured.get(name),
        histogram=spread.get(name),
    )
