"""Parameters that FSDP1 keeps as a range of one flat tensor, under their own shapes.

FSDP1 lays the parameters of a unit end to end and gives each rank an equal part of the result. So a rank holds of a
parameter a range of its elements, and nothing that has the parameter's shape. A `FlatShard` stands for such a
parameter while it is initialised or measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lightning_init.errors import InitError

__all__ = ["FlatRange", "FlatShard"]


@dataclass(frozen=True)
class FlatRange:
    """What a flat local tensor holds of a whole one: successive elements in the order of memory.

    Attributes:
        start: The first of them.
        length: How many there are.
        order: The dimensions of the whole from the outermost in memory to the innermost; mostly as they come.

    >>> str(FlatRange(5, 4, (0, 1)))
    '5:9'
    """

    start: int
    length: int
    order: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.start}:{self.start + self.length}"


class FlatShard(Tensor):
    """A parameter of which this rank holds a range of elements in a flat tensor.

    It has the shape of the whole parameter, and no values that an operation could read: what is done with it gives
    tensors on ``meta``. `lightning_init.sharding` knows how to write it and how to put it together.
    """

    local: Tensor
    held: FlatRange
    group: dist.ProcessGroup | None
    gathers_on: torch.device

    @classmethod
    def of(
        cls,
        local: Tensor,
        held: FlatRange,
        shape: tuple[int, ...],
        group: dist.ProcessGroup | None,
        gathers_on: torch.device,
        *,
        requires_grad: bool = False,
    ) -> FlatShard:
        """Makes one.

        Args:
            local: What this rank holds, a view of the memory that the unit trains.
            held: Which elements these are.
            shape: Of the whole parameter.
            group: The ranks that hold the others; None if all are here.
            gathers_on: The device that this group communicates on.
            requires_grad: As of the parameter.
        """
        made: FlatShard = Tensor._make_wrapper_subclass(
            cls, shape, dtype=local.dtype, device=local.device, requires_grad=requires_grad
        )
        made.local, made.held, made.group, made.gathers_on = local, held, group, gathers_on
        return made

    @property
    def _local_tensor(self) -> Tensor:
        """Under the name that a ``DTensor`` has it."""
        return self.local

    def __repr__(self) -> str:  # type: ignore[override]  # nobody passes contents on
        return f"<FlatShard {self.held} of {tuple(self.shape)}>"

    def boxes(self) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """The parts that are in one piece in every dimension: where each stands in the whole, and a view of it."""
        order = self.held.order
        begun = 0
        for offsets, sizes in _boxes([self.shape[dim] for dim in order], self.held.start, self.held.length):
            part = self.local[begun : begun + prod(sizes)].view(sizes)
            begun += prod(sizes)
            yield tuple(offsets[dim] for dim in self._from_memory), part.permute(self._from_memory)

    def whole(self) -> Tensor:
        """All elements, which are on every rank then; the ranks of the group have to call it at the same time."""
        if self.group is None:
            flat = self.local.detach().clone()
        else:
            # As bytes, whose sum with zeros is exact for every type and every NaN.
            flat = torch.zeros(self.numel(), dtype=self.dtype, device=self.gathers_on)
            flat[self.held.start : self.held.start + self.held.length] = self.local.detach()
            dist.all_reduce(flat.view(torch.uint8), group=self.group)
            flat = flat.to(self.device)
        return flat.view([self.shape[dim] for dim in self.held.order]).permute(self._from_memory)

    @property
    def _from_memory(self) -> tuple[int, ...]:
        """For every dimension, where it stands in the order of memory."""
        return tuple(map(self.held.order.index, range(len(self.held.order))))

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch itself does it

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares another function
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            (given,) = args
            return cls.of(given.local, given.held, tuple(given.shape), given.group, given.gathers_on)
        if func._schema.is_mutable:
            raise InitError("a parameter that FSDP has flattened cannot be written as a whole by this rank alone")
        args, kwargs = tree_map_only(cls, _on_meta, (args, kwargs or {}))
        return func(*args, **kwargs)


def _on_meta(shard: FlatShard) -> Tensor:
    return torch.empty(shard.shape, dtype=shard.dtype, device="meta")


def _boxes(shape: Sequence[int], start: int, length: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The offsets and sizes of as few boxes as a range of the flattened logical order can be cut into, in that order.

    >>> list(_boxes((4, 3), 2, 6))
    [((0, 2), (1, 1)), ((1, 0), (1, 3)), ((2, 0), (1, 2))]
    """
    if not shape:
        yield from [((), ())] * length
        return
    inner = prod(shape[1:])
    end = start + length
    while start < end:
        row, offset = divmod(start, inner)
        rows = 1 if offset else (end - start) // inner
        if offset or not rows:
            # A row that is here in part.
            taken = min(inner - offset, end - start)
            for offsets, sizes in _boxes(shape[1:], offset, taken):
                yield (row, *offsets), (1, *sizes)
        else:
            taken = rows * inner
            yield (row, *(0 for _ in shape[1:])), (rows, *shape[1:])
        start += taken
