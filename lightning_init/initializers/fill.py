"""Laws into tensors, block by block.

Which blocks a tensor has and how one block is drawn are apart here: threads and shards change the former only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import local as own_of_thread
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_init.errors import InitError
from lightning_init.gradients import no_gradients
from lightning_init.initializers.laws import ConstantLaw, Law
from lightning_init.rng import block_size
from lightning_init.sharding import Share, boxes, copy_, is_summed, local
from lightning_init.workers import Workers, in_turn, one_core

__all__ = [
    "BlockGenerators",
    "Later",
    "blocks",
    "can_hold",
    "default_generators",
    "draw_",
    "fill_",
    "fill_whole_",
    "is_plain",
    "is_small",
    "obstacle_of_placement",
    "refuse_place",
]

BlockGenerators: TypeAlias = Callable[[int], torch.Generator | None]
"""The generator of a block by the block's index; None for torch's default one, which moves on from block to block."""

_DRAWN = (torch.float32, torch.float64)
_ROUNDED = (
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
_PLAIN = (nn.Parameter, Tensor)
_STRIDED = torch.strided
# Below, handing a tensor to a thread costs more than the calling thread needs to draw it.
_WORTH_A_THREAD = 2**15
_INTEGERS = (
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


def default_generators(block: int) -> None:
    """The `BlockGenerators` that draw from torch's default generator."""


def blocks(numel: int, device: torch.device) -> Iterator[tuple[int, int, int]]:
    """(index, start, stop) of the blocks of a tensor in its flattened logical order, for where they are drawn.

    >>> list(blocks(300_000, torch.device("cpu")))
    [(0, 0, 262144), (1, 262144, 300000)]
    """
    size = block_size(device)
    for index, start in enumerate(range(0, numel, size)):
        yield index, start, min(start + size, numel)


def can_hold(dtype: torch.dtype, law: Law | None) -> str | None:
    """Why a tensor of that type cannot be filled by a law; None if it can.

    Args:
        dtype: The type of the tensor.
        law: The law; None for an initializer that draws whole tensors.

    >>> can_hold(torch.float16, ConstantLaw(1e5))
    '100000.0 is too large for torch.float16 (up to 65504.0)'
    """
    if isinstance(law, ConstantLaw):
        return _can_hold_constant(dtype, law.value)
    if dtype not in (*_DRAWN, *_ROUNDED):
        return f"random numbers cannot be written into {dtype}, only into a real floating point type"
    if law is None:
        return None
    # Six standard deviations out there is one number in a billion. The width counts where the numbers are drawn.
    reach = min(max(abs(law.low), abs(law.high)), abs(law.mean) + 6 * law.std)
    width = min(law.high - law.low, 12 * law.std)
    if reach > torch.finfo(dtype).max or width > torch.finfo(_drawn_in(dtype)).max:
        return f"numbers of up to {reach:g} are too large for {dtype} (up to {torch.finfo(dtype).max})"
    return None


def _can_hold_constant(dtype: torch.dtype, value: float) -> str | None:
    if dtype is torch.bool:
        return None if value in (0, 1) else f"{value} is neither 0 nor 1, and {dtype} holds nothing else"
    if dtype in _INTEGERS:
        info = torch.iinfo(dtype)
        if not float(value).is_integer():
            return f"{value} is no whole number, and {dtype} holds nothing else"
        fits = info.min <= value <= info.max
        return None if fits else f"{value} is outside of what {dtype} holds ({info.min} to {info.max})"
    if dtype not in (*_DRAWN, *_ROUNDED) and not dtype.is_complex:
        return f"numbers cannot be written into {dtype}"
    largest = torch.finfo(dtype).max
    return f"{value} is too large for {dtype} (up to {largest})" if largest < abs(value) < math.inf else None


def obstacle_of_placement(tensor: Tensor) -> str | None:
    """Why a tensor cannot be written as it is spread over ranks; None if it can."""
    if is_summed(tensor):
        return f"its placements {tensor.placements} hold sums that are still to be added up"
    return None


def _drawn_in(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers for a tensor are drawn in: half precision is the rounded stream of float32."""
    return dtype if dtype in _DRAWN else torch.float32


def refuse_place(tensor: Tensor) -> None:
    """Looks at where a tensor is, whatever it is to be filled with.

    Raises:
        InitError: It has no storage to write into, or none of a kind that can be written.
    """
    if tensor.is_meta:
        raise InitError("the tensor is on the meta device and has no storage to write into; materialise it first")
    if tensor.layout is not torch.strided:
        raise InitError(f"a tensor of layout {tensor.layout} cannot be filled, only a dense one")
    reason = obstacle_of_placement(tensor)
    if reason:
        raise InitError(reason)


def _refuse(tensor: Tensor, law: Law | None) -> None:
    refuse_place(tensor)
    reason = can_hold(tensor.dtype, law)
    if reason:
        raise InitError(reason)


def fill_(tensor: Tensor, law: Law, generators: BlockGenerators, workers: Workers = in_turn) -> None:
    """Fills a tensor in place, in blocks of its flattened logical order.

    The numbers depend on shape, law and generators, not on strides: a ``channels_last`` or transposed tensor gets the
    same values as a contiguous one. Below single precision they are drawn in float32 and rounded. No gradient is
    recorded.

    Args:
        tensor: Of any shape, also empty or without dimensions, and any real type, for a constant of any type. Of one
            that is spread over ranks, only the blocks are drawn that have elements on this rank, which are the same
            numbers as in the whole tensor.
        law: What to fill it with.
        generators: Where a block comes from. A generator of another kind of device than the tensor's draws there, and
            the numbers are copied.
        workers: Who draws the blocks. Those of a generator that moves on from block to block have to be drawn in turn.

    Raises:
        InitError: The tensor cannot hold such numbers, or has no storage. Nothing has been written.
    """
    _refuse(tensor, law)
    draw_(tensor, law, generators, workers)


class _Areas(own_of_thread):
    """Room for a block, one for each thread and type."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def area(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for a block of that size, until the thread asks again."""
        held = self._held.get((dtype, device))
        if held is None or held.numel() < size:
            held = self._held[dtype, device] = torch.empty(size, dtype=dtype, device=device)
        return held[:size]


@dataclass(frozen=True)
class Later:
    """What fills the blocks of large tensors, put off so that it can be shared out for all of them at once.

    Attributes:
        pieces: They do not depend on each other, and run without gradients.
        areas: Room for blocks.
    """

    pieces: list[Callable[[], None]] = field(default_factory=list)
    areas: _Areas = field(default_factory=_Areas)


def draw_(tensor: Tensor, law: Law, generators: BlockGenerators, workers: Workers, later: Later | None = None) -> None:
    """`fill_` for a tensor that is known to have storage and a type for such numbers.

    Args:
        tensor: Of any shape and placement.
        law: What to fill it with.
        generators: Where a block comes from.
        workers: Who draws the blocks.
        later: Takes the blocks of a tensor that is worth a thread, instead of the workers.
    """
    with no_gradients():
        here = local(tensor)
        if isinstance(law, ConstantLaw):
            law.fill(here)
            return
        if is_small(tensor):
            # The case of most tensors, without the cost of the general one.
            generator = generators(0)
            if _device(tensor, generator) == tensor.device:
                law.fill(tensor.view(-1), generator)
                return
        if later is None:
            workers.run(list(_pieces(tensor, law, generators, _Areas())))
        else:
            later.pieces.extend(_pieces(tensor, law, generators, later.areas))


def is_plain(tensor: Tensor) -> bool:
    """It is a dense tensor and of no class of its own."""
    return type(tensor) in _PLAIN and tensor.layout is _STRIDED


def is_small(tensor: Tensor) -> bool:
    """The calling thread draws it where it is, sooner than it could hand it over."""
    return is_plain(tensor) and tensor.numel() < _WORTH_A_THREAD and tensor.dtype in _DRAWN and tensor.is_contiguous()


def _pieces(tensor: Tensor, law: Law, generators: BlockGenerators, areas: _Areas) -> Iterator[Callable[[], None]]:
    """What fills the blocks of a tensor that have elements here, each on its own."""
    held = boxes(tensor)

    def draw(index: int, start: int, stop: int, parts: list[tuple[Tensor, Share]]) -> None:
        generator = generators(index)
        device = _device(parts[0][0], generator)
        target = _in_one_piece(parts[0], start, stop)
        is_apart = law.drawn_apart and device.type == "cpu"
        if target is not None and target.dtype in _DRAWN and device == target.device and not is_apart:
            law.fill(target, generator)
            return
        block = areas.area(stop - start, _drawn_in(tensor.dtype), device)
        law.fill(block, generator)
        if target is not None:
            target.copy_(block)
            return
        for here, share in parts:
            share.put(here, start, block)

    # Numbers for another device may be drawn on the CPU, in its blocks.
    device = tensor.device if tensor.device.type == "cpu" else _device(tensor, generators(0))
    for index, start, stop in blocks(tensor.numel(), device):
        parts = [(here, share) for here, share in held if share.before(start) != share.before(stop)]
        if parts:
            yield partial(draw, index, start, stop, parts)


def _in_one_piece(part: tuple[Tensor, Share], start: int, stop: int) -> Tensor | None:
    """A range of elements where all of it is here, in succession; None elsewhere."""
    here, share = part
    first, last = share.before(start), share.before(stop)
    return here.view(-1)[first:last] if here.is_contiguous() and last - first == stop - start else None


def fill_whole_(
    tensor: Tensor, draw: Callable[[Tensor, torch.Generator | None], None], generators: BlockGenerators
) -> None:
    """Fills a tensor in place by a function that needs all of it at once.

    It computes on one core, because the bits of a factorisation differ with the number of threads. Of a tensor that is
    spread over ranks, every rank draws the whole and keeps its share.

    Args:
        tensor: Of any shape and real floating point type.
        draw: Gets a contiguous tensor of that shape, in float32 or float64, and a generator of its device. It has to
            write every element; what it finds there is not defined.
        generators: Only the generator of block 0 is used.

    Raises:
        InitError: The tensor cannot hold random numbers, or has no storage. Nothing has been written.
    """
    _refuse(tensor, None)
    generator = generators(0)
    here = local(tensor)
    device = _device(here, generator)
    with no_gradients(), one_core():
        if here is tensor and tensor.is_contiguous() and tensor.dtype in _DRAWN and device == tensor.device:
            draw(tensor, generator)
            return
        whole = torch.empty(tensor.shape, dtype=_drawn_in(tensor.dtype), device=device)
        draw(whole, generator)
        copy_(tensor, whole)


def _device(tensor: Tensor, generator: torch.Generator | None) -> torch.device:
    """Where to draw: beside the tensor, if the generator is of that kind of device."""
    return tensor.device if generator is None or generator.device.type == tensor.device.type else generator.device
