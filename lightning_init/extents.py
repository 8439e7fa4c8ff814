"""Which tensors lie in the same memory."""

from __future__ import annotations

from bisect import bisect_left

from torch import Tensor

__all__ = ["Extents"]


class Extents:
    """The memory of some tensors, none of which meets another one.

    >>> import torch
    >>> held, memory = Extents(), torch.zeros(4)
    >>> held.add(memory)
    >>> held.meet(memory[1:2]), held.meet(torch.zeros(4))
    (True, False)
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, int]] = []

    def add(self, tensor: Tensor) -> None:
        """Takes the memory of a dense tensor that meets none of the others."""
        extent = _extent(tensor)
        self._held.insert(bisect_left(self._held, extent), extent)

    def meet(self, tensor: Tensor) -> bool:
        """Whether a dense tensor lies, in part, where one of these lies; the whole storage counts as its place."""
        start, end = _extent(tensor)
        at = bisect_left(self._held, (start, end))
        return (at > 0 and self._held[at - 1][1] > start) or (at < len(self._held) and self._held[at][0] < end)


def _extent(tensor: Tensor) -> tuple[int, int]:
    # Two arrays of NumPy may be views of one memory, and have a storage each.
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
