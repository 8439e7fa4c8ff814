"""What one chunk of a tensor adds up to.

The sums are total, squares, squared deviations from the chunk's own mean, magnitudes; then the smallest, the largest,
and how many are not zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_init.chunks import Widener

__all__ = ["Reader", "sums_there"]


class Reader:
    """Reads chunks that are in the memory of the CPU, one after the other, by what takes the least time there.

    Every call of torch hands over Python's lock, which other threads may be waiting for; so results are not asked for
    with ``item()`` but left where Python sees them.
    """

    def __init__(self) -> None:
        self._widened = Widener()
        self._numbers, self._places = _results(torch.float64, 7)
        self._extent = _results(torch.float32, 2)

    def sums(self, values: Tensor) -> tuple[float, ...]:
        """The sums of a chunk of real numbers."""
        total, squares, deviations, magnitudes, nearest, low, high = self._places
        is_single = values.dtype is torch.float32
        if is_single:
            # Sooner than of float64, and soonest by the first to read it.
            torch.aminmax(values, out=self._extent[1])
        wide = self._widened(values)
        if not is_single:
            torch.aminmax(wide, out=(low, high))
        torch.sum(wide, 0, out=total)
        torch.dot(wide, wide, out=squares)
        mean = self._numbers[0] / wide.numel()
        self._numbers[2] = self._numbers[1] - self._numbers[0] * mean
        if not self._numbers[2] > self._numbers[1] / 2:
            # The difference cancels; above, it has lost less than two bits.
            centred = wide - mean
            torch.dot(centred, centred, out=deviations)
        torch.sum(wide.abs_(), 0, out=magnitudes)
        torch.amin(wide, 0, out=nearest)
        nonzero = wide.numel() if self._numbers[4] > 0 else int(torch.count_nonzero(wide))
        return *self._numbers[:4], *(self._extent[0] if is_single else self._numbers[5:]), nonzero


def _results(dtype: torch.dtype, count: int) -> tuple[memoryview[float], tuple[Tensor, ...]]:
    """Memory for numbers as Python sees it, and as tensors that operations can write to."""
    memory = bytearray(count * dtype.itemsize)
    seen = memoryview(memory).cast("d" if dtype is torch.float64 else "f")
    return seen, torch.frombuffer(memory, dtype=dtype).unbind()


def sums_there(wide: Tensor) -> Tensor:
    """The sums of a chunk on a device, which is not waited for.

    Args:
        wide: The chunk in float64, flat. It is overwritten.

    Returns:
        The sums as one tensor of float64.
    """
    low, high = wide.aminmax()
    total, squares = wide.sum(), torch.dot(wide, wide)
    centred = wide - total / wide.numel()
    deviations = torch.dot(centred, centred)
    magnitudes = wide.abs_().sum()
    nonzero = torch.count_nonzero(wide).double()
    return torch.stack([total, squares, deviations, magnitudes, low, high, nonzero])
