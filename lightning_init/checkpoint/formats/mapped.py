"""The values of tensors in a file, seen in place where that is possible."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_init.checkpoint.base import Piece
from lightning_init.checkpoint.formats.layouts import Record
from lightning_init.checkpoint.formats.stand_ins import Stored
from lightning_init.sharding import Share

__all__ = ["MappedFile", "misplaced"]

_MOST_COPIED = 2**20
"""Bytes of values that are copied out of a file at once, where a row of a tensor is not larger."""


def misplaced(name: str, tensor: Stored, record: Record | None) -> str:
    """Why the values of a tensor cannot be where its file says; empty if they can.

    Args:
        name: The tensor's name, for messages.
        tensor: The tensor.
        record: The storage that they should lie in; None if the file lacks it.
    """
    if tensor.span and record is None:
        return f"the values of {name!r} are not in it"
    room = tensor.storage.end
    if record is not None and room > record.nbytes:
        return f"the storage of {name!r} should have {room} bytes, and has {record.nbytes}"
    if tensor.span and tensor.end > room:
        return f"{name!r} of shape {tensor.shape} and {tensor.dtype} ends at byte {tensor.end} of a storage of {room}"
    return ""


class MappedFile:
    """A file that is mapped into memory: only what is looked at is read.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
        RuntimeError: It cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        # Pages that are not written to stay those of the file.
        mapped: Any = torch.UntypedStorage.from_file(os.fspath(path), shared=False, nbytes=path.stat().st_size)
        self._storage: torch.UntypedStorage = mapped

    def tensor(self, tensor: Stored, record: Record) -> Tensor:
        """The values of a tensor: a view of the file, or a copy where they do not lie at a multiple of their size.

        Args:
            tensor: The tensor; it has elements.
            record: The storage that it lies in, not packed.

        Raises:
            RuntimeError: The file is no more what it was, or torch has no tensors of this type.
        """
        return self._part(tensor, record.start + tensor.start, tensor.shape)

    def pieces(self, tensor: Stored, record: Record, mine: Share, offsets: tuple[int, ...]) -> Iterator[Piece]:
        """The values of a tensor as far as they are in a share; see `Checkpoint.pieces`.

        Args:
            tensor: As for `tensor`.
            record: As for `tensor`.
            mine: The share of the tensor that is wanted, or of one that it is a part of.
            offsets: Where it starts in that one.
        """
        size = tensor.dtype.itemsize
        start = record.start + tensor.start
        rows = None
        if start % size and tensor.shape:
            rows = max(1, _MOST_COPIED // max(1, tensor.stride[0] * size))
        for here, there in mine.cut(offsets, tensor.shape, rows):
            first = sum(part.start * step for part, step in zip(there, tensor.stride, strict=True))
            yield here, self._part(tensor, start + first * size, tuple(part.stop - part.start for part in there))

    def _part(self, tensor: Stored, start: int, shape: tuple[int, ...]) -> Tensor:
        """A box of a tensor, given the byte that it starts at."""
        size = tensor.dtype.itemsize
        whole = torch.empty(0, dtype=tensor.dtype, device="cpu")
        if start % size == 0:
            return whole.set_(self._storage, start // size, shape, tensor.stride)
        # Values that do not lie at a multiple of their size cannot be seen in place. Memory of the system goes back to
        # it at once; large tensors of malloc, one after the other, break its heap into pieces.
        span = (sum((n - 1) * step for n, step in zip(shape, tensor.stride, strict=True)) + 1) * size
        memory = mmap.mmap(-1, span, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        raw = torch.frombuffer(memory, dtype=torch.uint8)
        raw.copy_(torch.empty(0, dtype=torch.uint8, device="cpu").set_(self._storage, start, (span,), (1,)))
        return whole.set_(raw.untyped_storage(), 0, shape, tensor.stride)
