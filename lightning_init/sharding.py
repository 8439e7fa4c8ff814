"""What a rank holds of a tensor that is spread over ranks, in terms of the whole tensor.

Such a tensor is a ``DTensor``, or the `FlatShard` that stands for a parameter of FSDP1. A share is known exactly for
every placement, uneven and interleaved ones included, and without communication: torch itself is asked which indices of
each dimension it would give to this rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_init.flat import FlatShard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

    Spread = DTensor | FlatShard

__all__ = [
    "Share",
    "Slices",
    "Span",
    "boxes",
    "copy_",
    "described",
    "is_copied",
    "is_sharded",
    "is_summed",
    "local",
    "whole",
    "zero_row_",
]

Slices: TypeAlias = tuple[slice, ...]
"""A part of a tensor, as an index: successive indices of every dimension."""


class Span(NamedTuple):
    """Successive indices of one dimension that stand in succession on this rank as well.

    Attributes:
        start: The first one in the whole tensor.
        here: Where that one stands in the local tensor.
        length: How many there are.
    """

    start: int
    here: int
    length: int


@dataclass(frozen=True)
class Share:
    """What a local tensor holds of a whole one: of every dimension some indices, in ascending order.

    Attributes:
        shape: The shape of the whole tensor.
        spans: The indices of every dimension.

    >>> rows = Share((4, 3), ((Span(2, 0, 2),), (Span(0, 0, 3),)))
    >>> rows.before(6), rows.before(7), rows.before(12)
    (0, 1, 6)
    >>> str(rows)
    '2:4,0:3'
    """

    shape: tuple[int, ...]
    spans: tuple[tuple[Span, ...], ...]

    @classmethod
    def of_all(cls, shape: Sequence[int]) -> Share:
        """The share that is the whole tensor."""
        return cls(tuple(shape), tuple((Span(0, 0, size),) for size in shape))

    def __str__(self) -> str:
        return ",".join("+".join(f"{s.start}:{s.start + s.length}" for s in spans) for spans in self.spans)

    @cached_property
    def _inner(self) -> tuple[tuple[int, int], ...]:
        """For every dimension, how many elements one index of it holds: of the whole tensor, and here."""
        here = [sum(span.length for span in spans) for spans in self.spans]
        return tuple((prod(self.shape[dim + 1 :]), prod(here[dim + 1 :])) for dim in range(len(self.shape)))

    def before(self, index: int, dim: int = 0) -> int:
        """How many of the elements before an index of the flattened logical order are here.

        Args:
            index: That index.
            dim: The first dimension of the part that it is an index of.
        """
        if dim == len(self.shape) or not index:
            return index
        inner, inner_here = self._inner[dim]
        row, rest = divmod(index, inner)
        rows = sum(min(max(row - span.start, 0), span.length) for span in self.spans[dim])
        begun = self.before(rest, dim + 1) if self._row(dim, row) is not None else 0
        return rows * inner_here + begun

    def put(self, tensor: Tensor, start: int, values: Tensor, dim: int = 0) -> None:
        """Copies what is here of a range of the flattened logical order, whatever the strides of the local tensor.

        Args:
            tensor: The local tensor.
            start: The first element of the range.
            values: A flat tensor.
            dim: The first dimension of the part that is copied to.
        """
        if dim == len(self.shape):
            tensor.copy_(values.view(()))
            return
        inner, _ = self._inner[dim]
        row, offset = divmod(start, inner)
        if offset:
            # The rest of a row that is begun already.
            head, values = values[: inner - offset], values[inner - offset :]
            self._put_row(tensor, row, offset, head, dim)
            row += 1
        rows = values.numel() // inner
        whole, tail = values[: rows * inner], values[rows * inner :]
        self._put_rows(tensor, row, whole.view(rows, *self.shape[dim + 1 :]), dim)
        if tail.numel():
            self._put_row(tensor, row + rows, 0, tail, dim)

    def copy(self, tensor: Tensor, whole: Tensor) -> None:
        """Copies what is here of a whole tensor, of which nothing else is read.

        Args:
            tensor: The local tensor.
            whole: Of the whole shape.
        """
        for here, there in self.cut((0,) * whole.dim(), whole.shape):
            tensor[here].copy_(whole[there])

    def cut(
        self, offsets: Sequence[int], sizes: Sequence[int], rows: int | None = None
    ) -> Iterator[tuple[Slices, Slices]]:
        """What of a box of the whole tensor is here.

        Args:
            offsets: Where the box starts.
            sizes: Its shape.
            rows: How many indices of the first dimension a part has at most; None for any number.

        Yields:
            For every part, where it stands in the local tensor, and where in the box.

        >>> rows = Share((4, 3), ((Span(2, 0, 2),), (Span(0, 0, 3),)))
        >>> [(here[0], there[0]) for here, there in rows.cut((1, 0), (2, 3))]
        [(slice(0, 1, None), slice(1, 2, None))]
        """
        return _cuts(self.spans, offsets, sizes, rows)

    def overlaps(self, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        """Whether anything of a box of the whole tensor is here; see `cut`."""
        return next(self.cut(offsets, sizes), None) is not None

    def zero_row(self, tensor: Tensor, row: int) -> None:
        """Zeroes one index of the first dimension, if it is here."""
        here = self._row(0, row % self.shape[0])
        if here is not None:
            tensor[here].zero_()

    def _row(self, dim: int, row: int) -> int | None:
        """Where an index of a dimension stands here."""
        held = (span.here + row - span.start for span in self.spans[dim] if 0 <= row - span.start < span.length)
        return next(held, None)

    def _put_row(self, tensor: Tensor, row: int, offset: int, values: Tensor, dim: int) -> None:
        here = self._row(dim, row)
        if here is not None:
            self.put(tensor[here], offset, values, dim + 1)

    def _put_rows(self, tensor: Tensor, row: int, whole: Tensor, dim: int) -> None:
        for here, there in _cuts(self.spans[dim:], (row, *(0 for _ in whole.shape[1:])), whole.shape):
            tensor[here].copy_(whole[there])


def _cuts(
    spans: Sequence[Sequence[Span]], offsets: Sequence[int], sizes: Sequence[int], rows: int | None = None
) -> Iterator[tuple[Slices, Slices]]:
    """`Share.cut`, of some of the dimensions."""
    within = [list(_cut(of, start, start + size)) for of, start, size in zip(spans, offsets, sizes, strict=True)]
    if rows is not None:
        within[0] = [
            Span(span.start + i, span.here + i, min(rows, span.length - i))
            for span in within[0]
            for i in range(0, span.length, rows)
        ]
    for part in product(*within):
        yield (
            tuple(slice(span.here, span.here + span.length) for span in part),
            tuple(slice(span.start, span.start + span.length) for span in part),
        )


def _cut(spans: Sequence[Span], start: int, stop: int) -> Iterator[Span]:
    """What of some spans lies in a range, counted from the beginning of the range."""
    for span in spans:
        first = max(start, span.start)
        length = min(stop, span.start + span.length) - first
        if length > 0:
            yield Span(first - start, span.here + first - span.start, length)


def is_sharded(tensor: Tensor) -> TypeIs[Spread]:
    """It is spread over ranks; a ``DTensor`` is told without importing that part of torch."""
    return isinstance(tensor, FlatShard) or (hasattr(tensor, "placements") and hasattr(tensor, "device_mesh"))


def is_summed(tensor: Tensor) -> TypeIs[DTensor]:
    """It is spread over ranks as sums that are still to be added up, of which no share can be written or read."""
    placements = getattr(tensor, "placements", ())
    return bool(placements) and any(placement.is_partial() for placement in placements)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: the tensor itself, or its local one."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.local if isinstance(tensor, FlatShard) else tensor.to_local()


def boxes(tensor: Tensor) -> list[tuple[Tensor, Share]]:
    """What this rank holds of a tensor: some local tensors, and which part of the whole each of them is.

    There is one, which is `local`, except where FSDP1 has flattened the tensor.
    """
    shape = tuple(tensor.shape)
    if isinstance(tensor, FlatShard):
        parts = [(zip(offsets, here.shape, strict=True), here) for offsets, here in tensor.boxes()]
        return [(here, Share(shape, tuple((Span(at, 0, size),) for at, size in box))) for box, here in parts]
    if is_sharded(tensor):
        return [(local(tensor), Share(shape, tuple(_spans(tensor, dim) for dim in range(tensor.dim()))))]
    return [(tensor, Share.of_all(shape))]


def described(tensor: Tensor) -> str:
    """Which part of a tensor this rank holds, in words that are equal for replicas of it."""
    return str(tensor.held) if isinstance(tensor, FlatShard) else str(boxes(tensor)[0][1])


def is_copied(tensor: Any) -> bool:
    """Another rank may hold what this one holds of a tensor; where it cannot be told, it may."""
    if not is_sharded(tensor):
        return True
    if isinstance(tensor, FlatShard):
        holders = 1 if tensor.group is None else tensor.group.size()
    else:
        sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
        holders = prod(size for size, placement in sizes if not placement.is_replicate())
    return holders < dist.get_world_size()


def whole(tensor: Spread) -> Tensor:
    """All of a tensor that is spread over ranks, on each of them; all have to call it at the same time."""
    with torch.no_grad():
        return tensor.whole() if isinstance(tensor, FlatShard) else tensor.full_tensor().detach()


def copy_(tensor: Tensor, whole: Tensor) -> None:
    """Writes whole values into a tensor, of which every rank takes its share; type and device are converted."""
    for here, share in boxes(tensor):
        share.copy(here, whole)


def zero_row_(tensor: Tensor, row: int) -> None:
    """Zeroes one index of the first dimension of a tensor."""
    for here, share in boxes(tensor):
        share.zero_row(here, row)


def _spans(tensor: Any, dim: int) -> tuple[Span, ...]:
    from torch.distributed.tensor import Replicate, distribute_tensor  # noqa: PLC0415  # imported by now

    size = tensor.shape[dim]
    if tensor.device_mesh.get_coordinate() is None:
        return ()
    placements = [
        placement if getattr(placement, "dim", None) == dim else Replicate() for placement in tensor.placements
    ]
    if all(placement.is_replicate() for placement in placements):
        return (Span(0, 0, size),)
    indices = torch.arange(size, device=tensor.device_mesh.device_type).view((1,) * dim + (size,))
    mine = distribute_tensor(indices, tensor.device_mesh, placements, src_data_rank=None).to_local().cpu().view(-1)
    if not mine.numel():
        return ()
    starts = [0, *(torch.nonzero(mine.diff() != 1).view(-1) + 1).tolist()]
    ends = [*starts[1:], mine.numel()]
    return tuple(Span(int(mine[first]), first, end - first) for first, end in zip(starts, ends, strict=True))
