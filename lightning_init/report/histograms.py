"""How the values of a tensor are spread: counts in bins, taken a chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Histogram"]


@dataclass(frozen=True)
class Histogram:
    """Counts of finite values in bins of equal width.

    Attributes:
        low: The left edge of the first bin: the smallest finite value.
        high: The right edge of the last bin: the largest finite value; equal to `low` for a constant.
        counts: How many values each bin holds, the right edge of the last one included.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges of the bins, one more than there are bins."""
        bins = len(self.counts)
        return tuple(self.low + (self.high - self.low) * i / bins for i in range(bins + 1))
