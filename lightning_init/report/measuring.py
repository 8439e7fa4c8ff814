"""Takes the statistics of a module's parameters into the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from lightning_init import distributed
from lightning_init.chunks import is_measurable
from lightning_init.digests import digest
from lightning_init.moments import moments_of_all, statistics
from lightning_init.report.histograms import histograms_of_all
from lightning_init.report.rows import Row
from lightning_init.sharding import described
from lightning_init.slot import Slot
from lightning_init.tree import slots

__all__ = ["measured"]


def measured(
    rows: Sequence[Row], module: nn.Module, *, histograms: bool, compare_ranks: bool, threads: int | None
) -> tuple[Row, ...]:
    """The rows with what is measured of a module now; rows of parameters that it lacks stay as they are.

    Args:
        rows: The rows.
        module: The module.
        histograms: Count how the values are spread as well.
        compare_ranks: Find the ranks that hold other values; every rank of the job calls this then.
        threads: How many threads take the statistics; None for as many as torch may use.
    """
    known = {slot.name: slot for slot in slots(module) if not slot.is_buffer}
    tensors = {name: slot.tensor for name, slot in known.items()}
    # Not of what is on `meta` or quantized.
    readable = {name: tensor for name, tensor in tensors.items() if is_measurable(tensor)}
    moments = moments_of_all(readable, threads)
    spread = histograms_of_all(readable, moments) if histograms else {}
    differing = _differing(known, readable) if compare_ranks else {}
    return tuple(
        replace(
            row,
            dtype=tensors[row.name].dtype,
            device=str(tensors[row.name].device),
            trainable=known[row.name].is_trainable,
            statistics=statistics(moments[row.name]) if row.name in moments else None,
            histogram=spread.get(row.name),
            differs_on=differing.get(row.name, ()),
        )
        if row.name in known
        else row
        for row in rows
    )


def _differing(known: Mapping[str, Slot], readable: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The ranks that hold other bits than the first rank with the same share of a parameter."""
    mine = {
        (name, "; ".join(described(tensor) for tensor in known[name].tensors)): digest(known[name].tensors)
        for name in readable
    }
    first: dict[tuple[str, str], str] = {}
    found: dict[str, list[int]] = {}
    for rank, held in enumerate(distributed.from_all("the comparison of the weights", mine)):
        for place, value in held.items():
            if first.setdefault(place, value) != value:
                found.setdefault(place[0], []).append(rank)
    return {name: tuple(ranks) for name, ranks in found.items()}
