"""How the values of a tensor are spread: counts in bins, taken a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_init.chunks import chunks
from lightning_init.gathering import joined
from lightning_init.moments import Moments
from lightning_init.sharding import local

__all__ = ["BINS", "Histogram", "histograms_of_all"]

BINS = 64
"""How many bins a histogram has, but for a constant."""

# Doubles reach to exponents of 1024 and -1074.
_REACH = 900


@dataclass(frozen=True)
class Histogram:
    """Counts of finite values in bins of equal width.

    Attributes:
        low: The left edge of the first bin: the smallest finite value.
        high: The right edge of the last bin: the largest finite value; equal to `low` for a constant.
        counts: How many values each bin holds, the right edge of the last one included; a constant has one bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges of the bins, one more than there are bins."""
        bins = len(self.counts)
        # Weighted, since the width of the largest numbers does not fit in a double.
        inner = (self.low * (1 - i / bins) + self.high * (i / bins) for i in range(1, bins))
        return (self.low, *inner, self.high)


def histograms_of_all(tensors: Mapping[str, Tensor], measured: Mapping[str, Moments]) -> dict[str, Histogram]:
    """The histograms of named tensors; of a ``DTensor`` that of the whole, which no rank ever holds.

    A tensor is read once more, and twice if it holds numbers that are not finite. A complex tensor is counted by its
    magnitudes. With a ``DTensor`` among them, every rank has to call this, with the same names.

    Args:
        tensors: Tensors that `lightning_init.moments.moments_of_all` has measured.
        measured: What it returned.

    Returns:
        One for each tensor that has a finite value.
    """
    ranges = {name: (known.low, known.high) for name, known in measured.items()}
    rough = {name: tensor for name, tensor in tensors.items() if measured[name].nonfinite}
    found = {name: _finite_range(local(tensor)) for name, tensor in rough.items()}
    ranges.update(joined("the range of weights", rough, found, _widest))
    binned = {name: tensor for name, tensor in tensors.items() if not math.isnan(ranges[name][0])}
    counts = {name: _counts(local(tensor), *ranges[name]) for name, tensor in binned.items()}
    whole = joined("the histograms of weights", binned, counts, _sums)
    return {name: Histogram(*ranges[name], of_bins) for name, of_bins in whole.items()}


def _counts(tensor: Tensor, low: float, high: float) -> tuple[int, ...]:
    if low == high:
        return (sum(int((block == low).sum()) for block in chunks(tensor)),)
    # A power of two, for ranges that are too wide or too narrow to be divided.
    _, exponent = math.frexp(high / 2 - low / 2)
    scale = 1.0 if abs(exponent) < _REACH else 2.0 ** (-_REACH if exponent > 0 else _REACH)
    low, high = low * scale, high * scale
    counts = torch.zeros(BINS, dtype=torch.int64)
    for block in chunks(tensor):
        block.mul_(scale)
        if block.device.type == "cpu":
            # Values outside of the range are left out, and so are NaN.
            counts += torch.histc(block, BINS, low, high).to(torch.int64)
        else:
            # On CUDA `histc` is an error under `use_deterministic_algorithms`.
            inside = block[(block >= low) & (block <= high)]
            bins = inside.sub_(low).mul_(BINS / (high - low)).to(torch.int64).clamp_(max=BINS - 1)
            counts += torch.bincount(bins, minlength=BINS).cpu()
    return tuple(counts.tolist())


def _finite_range(tensor: Tensor) -> tuple[float, float]:
    found = (math.nan, math.nan)
    for block in chunks(tensor):
        finite = block[torch.isfinite(block)]
        if finite.numel():
            low, high = finite.aminmax()
            found = _widest(found, (float(low), float(high)))
    return found


def _widest(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    # A rank may hold no finite number.
    if math.isnan(a[0]) or math.isnan(b[0]):
        return b if math.isnan(a[0]) else a
    return min(a[0], b[0]), max(a[1], b[1])


def _sums(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(a, b, strict=True)))
