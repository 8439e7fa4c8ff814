"""Digests of tensors, to compare what ranks hold without sending it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["digest"]

_CHUNK = 2**22


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of the bits of tensors, in their logical order.

    Args:
        tensors: Of any dtype and shape, also empty; on another device than the CPU they are copied a chunk at a time.

    >>> digest([torch.zeros(2)]) == digest([torch.zeros(2, dtype=torch.float64)])
    False
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _CHUNK):
            found.update(flat[start : start + _CHUNK].cpu().numpy().data)
    return found.hexdigest()
