"""Digests of tensors, to compare what ranks hold without sending it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_init.sharding import local

__all__ = ["digest"]

# Words of 8 bytes. A block of 2 MiB stays in the cache of a core between its two sums.
_COLUMNS = 2048
_ROWS = 128
_ROW_BYTES = 8 * _COLUMNS


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of the bits of tensors, in their logical order: it tells what differs by accident, not by intent.

    It has to keep up with memory, which no cryptographic hash does. So a block of bits is laid out as a table of words,
    and what is hashed (SHA-256) are the sums of its rows and of its columns. Another number, another order, a shift:
    all of them change a sum. Only changes that cancel out in their rows and in their columns as well do not.

    Args:
        tensors: Of any dtype and shape, also empty. On another device than the CPU only the sums are copied. Of a
            tensor that is spread over ranks, what is here counts.

    >>> digest([torch.zeros(2)]) == digest([torch.zeros(2, dtype=torch.float64)])
    False
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = local(tensor).detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        end = flat.numel() - flat.numel() % _ROW_BYTES
        for start in range(0, end, _ROWS * _ROW_BYTES):
            table = _table(flat[start : min(end, start + _ROWS * _ROW_BYTES)])
            found.update(_bytes(torch.cat([table.sum(0), table.sum(1)])))
        # Of a copy: storage that NumPy has seen cannot be resized any more, which is how FSDP frees it.
        found.update(_bytes(flat[end:].clone()))
    return found.hexdigest()


def _table(block: Tensor) -> Tensor:
    # Words have to start at a multiple of their size, which a slice of a larger tensor need not do.
    aligned = block.clone() if block.storage_offset() % 8 else block
    return aligned.view(torch.int64).view(-1, _COLUMNS)


def _bytes(tensor: Tensor) -> memoryview:
    found: memoryview = tensor.cpu().numpy().data
    return found
