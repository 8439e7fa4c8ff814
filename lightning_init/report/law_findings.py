"""Whether what was measured is what the declared law makes, up to chance and rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lightning_init.report.findings import Finding
from lightning_init.report.rows import Expected, Row
from lightning_init.report.significance import mean_chance, std_chance

__all__ = ["FALSE_ALARM", "law_findings"]

FALSE_ALARM = 1e-6
"""The probability that a model whose weights do follow their laws has such a finding by chance, whatever its size.

Each of its tests, two for a parameter with a random law, gets its part of it.
"""

# Skewed laws, such as a piece of a tail, and those nobody knows: their means and variances become normal late.
_SKEWED = 3.5
_LATE = 1000
_STRICTER = 0.01
# What the arithmetic of drawing in float32 may add up to, relative to the numbers.
_DRAWING = 2.0**-20


@dataclass(frozen=True)
class _Sample:
    """What was measured of the elements that a law filled."""

    n: int
    mean: float
    std: float


def law_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Parameters whose mean, std or bounds are not those of the law that was declared for them.

    Means are judged by the law's std, and standard deviations by its kurtosis as well; what the rounding to the type of
    the parameter can do at most is left out of account. One element has no std, and of none nothing is said.
    """
    tests = 2 * sum(row.expected is not None and row.expected.std > 0 for row in rows)
    for row in rows:
        if row.expected is None or row.statistics is None or row.statistics["nonfinite"]:
            continue
        sample = _sample(row)
        if sample is None:
            continue
        told = _off(row, row.expected, sample, FALSE_ALARM / max(tests, 1))
        if told:
            yield Finding(
                "warning",
                "off-expected",
                row.name,
                f"{told}, which neither chance nor rounding explains for {sample.n} numbers",
                "look for what writes it behind the rule, a callback or a restore; after training this is normal",
                row.source,
            )


def _sample(row: Row) -> _Sample | None:
    """The elements that the law filled: a padding row is none of them."""
    count = math.prod(row.shape)
    n = count - row.padding
    statistics = row.statistics or {}
    if n < 1:
        return None
    if not row.padding:
        return _Sample(n, statistics["mean"], statistics["std"])
    mean = statistics["mean"] * count / n
    deviations = statistics["l2_norm"] ** 2 - n * mean**2
    return _Sample(n, mean, math.sqrt(max(deviations, 0) / (n - 1)) if n > 1 else math.nan)


def _off(row: Row, expected: Expected, sample: _Sample, level: float) -> str:
    """What is wrong, with its numbers; empty if nothing is."""
    if not (math.isfinite(expected.mean) and math.isfinite(expected.std)):
        return ""
    if not expected.std:
        # Complex numbers are measured by their magnitudes, and only constants are written into them.
        return _off_value(row, abs(expected.mean) if row.dtype.is_complex else expected.mean, sample)
    return _outside(row, expected) or _improbable(row, expected, sample, level)


def _off_value(row: Row, wanted: float, sample: _Sample) -> str:
    spread = sample.std if sample.n > 1 else 0.0
    rounding = _rounding(row.dtype, abs(wanted))
    if abs(sample.mean - wanted) <= rounding and spread <= rounding:
        return ""
    return f"it is not {wanted:.4g} everywhere, but has a mean of {sample.mean:.4g} and a std of {spread:.4g}"


def _improbable(row: Row, expected: Expected, sample: _Sample, level: float) -> str:
    if expected.kurtosis is None or expected.kurtosis > _SKEWED:
        level *= _STRICTER
        if sample.n < _LATE:
            return ""
    rounding = _rounding(row.dtype, math.hypot(expected.mean, expected.std))
    if mean_chance(_beyond(sample.mean - expected.mean, rounding), expected.std, sample.n) < level:
        return f"its mean is {sample.mean:.4g} and not {expected.mean:.4g}"
    if sample.n > 1 and expected.kurtosis is not None:
        ratio = 1 + _beyond(sample.std - expected.std, rounding) / expected.std
        if std_chance(ratio, sample.n, expected.kurtosis) < level:
            return f"its std is {sample.std:.4g} and not {expected.std:.4g}"
    return ""


def _outside(row: Row, expected: Expected) -> str:
    statistics = row.statistics or {}
    low, high = (bound if math.isfinite(bound) else 0.0 for bound in (expected.low, expected.high))
    slack = _rounding(row.dtype, max(abs(low), abs(high)))
    # A padding row holds zeros, wherever the bounds are.
    if row.padding or (statistics["min"] >= expected.low - slack and statistics["max"] <= expected.high + slack):
        return ""
    return (
        f"it reaches from {statistics['min']:.4g} to {statistics['max']:.4g}, "
        f"beyond the bounds {expected.low:.4g} and {expected.high:.4g}"
    )


def _rounding(dtype: torch.dtype, size: float) -> float:
    """How far rounding can move mean and std of numbers of that size: no further than the numbers themselves."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    info = torch.finfo(dtype)
    return max(info.eps / 2, _DRAWING) * size + info.tiny * info.eps / 2


def _beyond(distance: float, slack: float) -> float:
    """What is left of a distance, of either sign, when a slack is taken off."""
    return math.copysign(max(abs(distance) - slack, 0.0), distance)
