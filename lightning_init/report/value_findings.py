"""Values that a model trains badly from, or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from lightning_init.report.findings import Finding, Severity
from lightning_init.report.rows import Row

__all__ = ["value_findings"]

# Matrices that start from zero so that an adapter changes nothing at first.
_ADAPTER = re.compile(r"(^|\.)lora_")
# A rule may let the scales differ a little, as DCGAN does (0.02 around 1).
_SLIGHT = 0.1
# What no rule wrote may have been trained. Trained scales seldom differ by more than their mean.
_WILD = 1.0
_FEW = 8


def value_findings(rows: Sequence[Row], loaded: Mapping[str, str]) -> Iterator[Finding]:
    """What the statistics show; nothing before they are measured.

    Args:
        rows: One for each parameter.
        loaded: The checkpoint of each rule that loads one, by the place of the rule.
    """
    yield from _symmetric(rows)
    for row in rows:
        if row.statistics is not None:
            yield from _nonfinite(row, row.statistics)
            yield from _random_scale(row, row.statistics, is_loaded=row.source in loaded)
        if row.differs_on:
            ranks = f"rank{'s' * (len(row.differs_on) > 1)} {', '.join(map(str, row.differs_on))}"
            yield Finding(
                "error",
                "ranks-differ",
                row.name,
                f"{ranks} started from other values than the first rank",
                "let rank zero send its weights (init_sync of DDP), or give it a rule: rules write the same everywhere",
                row.source,
            )


def _nonfinite(row: Row, statistics: Mapping[str, float]) -> Iterator[Finding]:
    count = int(statistics["nonfinite"])
    # Minus infinity in a mask is what was asked for.
    if not count or (row.expected is not None and math.isinf(row.expected.mean)):
        return
    is_mask = not (row.trainable or math.isnan(statistics["min"]))
    yield Finding(
        "warning" if is_mask else "error",
        "nonfinite",
        row.name,
        f"{count} of its {math.prod(row.shape)} elements are NaN or infinite",
        "look at what wrote it; a tensor made by torch.empty holds whatever was in memory",
        row.source,
    )


def _random_scale(row: Row, statistics: Mapping[str, float], *, is_loaded: bool) -> Iterator[Finding]:
    if not row.is_scale or row.kept_by or is_loaded:
        return
    mean, std = statistics["mean"], statistics["std"]
    if row.is_random and row.expected is not None:
        mean, std = row.expected.mean, row.expected.std
    wild = std > _SLIGHT * abs(mean) if row.is_random else std > _WILD * abs(mean) and math.prod(row.shape) >= _FEW
    if wild:
        yield Finding(
            "warning",
            "random-scale",
            row.name,
            f"the scale of a {row.layer} starts from random numbers (mean {mean:.4g}, std {std:.4g}), "
            "so that it multiplies its channels by them",
            "start it from one: dict(type='Constant', layer=..., val=1)",
            row.source,
        )


def _symmetric(rows: Sequence[Row]) -> Iterator[Finding]:
    matrices = [row for row in rows if row.units and row.trainable and row.statistics and not _is_adapter(row)]
    equal = [_is_one_value(row) for row in matrices]
    nothing_differs = len(matrices) > 1 and all(equal)
    for i, row in enumerate(matrices):
        if not equal[i] or row.units < 2:
            continue
        # Not minus zero.
        value = (row.statistics or {})["min"] + 0.0
        beside = [other for j, other in enumerate(matrices) if equal[j] and j in (i - 1, i + 1)]
        severity: Severity = "warning"
        message = f"its {row.units} units all start from {value:.4g}, so that only what comes behind tells them apart"
        if nothing_differs:
            severity = "error"
            message = (
                f"its {row.units} units all start from {value:.4g}, like those of every other layer: they stay equal"
            )
        elif row.is_random:
            message = f"its numbers are so small that {row.dtype} makes {value:.4g} of all of them"
        elif len(matrices) == 1:
            severity = "info"
        elif value == 0 and any(_follows(row, other) for other in beside):
            message = "it is all zeros, and so is its neighbour: behind one another, neither gets a gradient"
        elif value == 0:
            severity = "info"
            message = "it is all zeros: its layer starts from its bias alone"
        remedy = "draw it at random (Kaiming, Xavier, Normal)"
        if value == 0:
            remedy += ", unless it ends a residual branch or is a head"
        yield Finding(severity, "symmetric", row.name, message, remedy, row.source)


def _is_adapter(row: Row) -> bool:
    return (row.kept_by is not None and "adapter" in row.kept_by) or bool(_ADAPTER.search(row.name))


def _is_one_value(row: Row) -> bool:
    statistics = row.statistics or {}
    return math.prod(row.shape) > 0 and statistics["min"] == statistics["max"]


def _follows(row: Row, other: Row) -> bool:
    """One rule wrote both, and one may take what the other gives.

    What may take the same may as well stand side by side: heads, or the zero convolutions of a ControlNet.
    """
    fits = row.shape[0] == other.shape[1] or other.shape[0] == row.shape[1]
    is_beside = row.shape[1] == other.shape[1]
    same = row.source is not None and row.source == other.source and row.initializer is not None
    return fits and not is_beside and same
