"""Whether ranks that read different parts of a tensor read them from the same file."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.digests import digest
from lightning_init.sharding import Share, Span

__all__ = ["sample"]


def sample(checkpoint: Checkpoint, key: str) -> str:
    """A digest of two elements, the same on every rank whatever it holds: what was trained otherwise differs in them.

    Args:
        checkpoint: Where from.
        key: The entry.
    """
    shape = checkpoint.entries[key].shape
    shares = [Share(shape, tuple((Span(i, 0, 1),) for i in point)) for point in _points(shape)]
    return digest([piece for share in shares for _, piece in checkpoint.pieces(key, share)])


def _points(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The indices of the first and of the last element, if there are any."""
    if prod(shape):
        yield tuple(0 for _ in shape)
        yield tuple(size - 1 for size in shape)
