"""Reading tensors a float64 chunk at a time: no copy of a whole tensor is made, and none is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_init.sharding import is_sharded, is_summed, local

__all__ = ["chunks", "is_measurable", "obstacle", "pieces", "widened"]

# Two float64 work areas of this many elements are 4 MiB. Smaller ones stay in a core's cache, but then threads spend
# their time in handing Python's lock to each other.
_CHUNK = 2**18


def is_measurable(tensor: Tensor) -> bool:
    """Its values can be read here."""
    return obstacle(tensor) is None


def obstacle(tensor: object) -> str | None:
    """Why the values of a tensor cannot be read; None if they can."""
    if not isinstance(tensor, Tensor):
        return f"is not a tensor but of type {type(tensor).__name__}"
    if is_sharded(tensor):
        return "holds sums that are still to be added up over ranks" if is_summed(tensor) else obstacle(local(tensor))
    obstacles = (
        (is_lazy(tensor), "is a lazy parameter without a shape: run a batch through its module first"),
        (tensor.is_meta, "is on the meta device and has no values"),
        (tensor.is_quantized, "is quantized: pass its dequantize()"),
        (tensor.layout is not torch.strided, f"has the layout {tensor.layout}: pass its to_dense()"),
    )
    if message := next((message for applies, message in obstacles if applies), None):
        return message
    return None if _converts(tensor.dtype) else f"has the dtype {tensor.dtype}, which does not convert to float64"


@cache
def _converts(dtype: torch.dtype) -> bool:
    try:
        # Complex, because a conversion of complex numbers to real ones warns; what fits in one fits in the other.
        torch.empty(1, dtype=dtype, device="cpu").to(torch.complex128)
    except NotImplementedError:
        return False
    return True


def chunks(tensor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements as flat float64 chunks, each with a scratch area of its size; both are reused for the next chunk.

    Args:
        tensor: Of any shape, strides and device, without an `obstacle` and not spread over ranks; it is not written.
            Complex numbers come as their magnitudes.
    """
    return widened(pieces(tensor))


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most a chunk each that cover a tensor; ``reshape(-1)`` would copy a strided one whole."""
    source = tensor.detach()
    # The order of elements does not matter here, that of memory is the fastest, and a transposed tensor is flat in it.
    return _cut(source.permute(sorted(range(source.dim()), key=source.stride, reverse=True)))


def widened(views: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements of `pieces`, of one device, as `chunks` gives them."""
    area: Tensor | None = None
    for piece in views:
        # Apple's GPUs have no float64: their chunks are brought to the CPU.
        values = piece.cpu() if piece.device.type == "mps" else piece
        if values.is_complex():
            values = values.to(torch.complex128).abs()
        if area is None or area.shape[1] < values.numel():
            area = torch.empty(2, values.numel(), dtype=torch.float64, device=values.device)
        block, scratch = area[:, : values.numel()]
        block.view(values.shape).copy_(values)
        yield block, scratch


def _cut(tensor: Tensor) -> Iterator[Tensor]:
    source = tensor.view(-1) if tensor.is_contiguous() else tensor
    if source.numel() > _CHUNK:
        longest = max(range(source.dim()), key=source.size)
        size = source.size(longest)
        step = max(1, _CHUNK * size // source.numel())
        for start in range(0, size, step):
            yield from _cut(source.narrow(longest, start, min(step, size - start)))
    elif source.numel():
        yield source
