"""Reading tensors a float64 chunk at a time: no copy of a whole tensor is made, and none is written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_init.sharding import is_sharded, is_summed, local

__all__ = ["Widener", "chunks", "is_measurable", "obstacle", "pieces", "real"]

# In float32 and float64 this is 1.5 MiB and stays in a core's cache. With less, threads spend their time in handing
# Python's lock to each other.
_CHUNK = 2**17


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


def chunks(tensor: Tensor) -> Iterator[Tensor]:
    """The elements as flat float64 chunks, in memory that is used again for the next one.

    Args:
        tensor: Of any shape, strides and device, without an `obstacle` and not spread over ranks; it is not written.
            Complex numbers come as their magnitudes.
    """
    widened = Widener()
    return (widened(real(piece)) for piece in pieces(tensor))


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most a chunk each that cover a tensor; ``reshape(-1)`` would copy a strided one whole."""
    source = tensor.detach()
    # The order of elements does not matter here, that of memory is the fastest, and a transposed tensor is flat in it.
    return _cut(source.permute(sorted(range(source.dim()), key=source.stride, reverse=True)))


def real(piece: Tensor) -> Tensor:
    """A piece where float64 can be, and as magnitudes if it is complex."""
    # Apple's GPUs have no float64: their chunks are brought to the CPU.
    values = piece.cpu() if piece.is_mps else piece
    return values.to(torch.complex128).abs() if values.dtype.is_complex else values


class Widener:
    """Copies chunks of one device to float64, always into the same memory."""

    def __init__(self) -> None:
        self._area = self._flat = self._shaped = torch.empty(0, dtype=torch.float64, device="cpu")

    def __call__(self, values: Tensor) -> Tensor:
        """The elements of a real tensor, flat; they are there until the next call."""
        if self._shaped.shape != values.shape or self._flat.device != values.device:
            self._make_room(values)
        self._shaped.copy_(values)
        return self._flat

    def _make_room(self, values: Tensor) -> None:
        if self._area.numel() < values.numel() or self._area.device != values.device:
            self._area = torch.empty(values.numel(), dtype=torch.float64, device=values.device)
        self._flat = self._area[: values.numel()]
        self._shaped = self._flat.view(values.shape)


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
