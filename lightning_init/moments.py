"""Statistics of tensors, as pure functions.

`moments` reads one tensor in chunks, `merge` joins what two parts of a tensor gave, `statistics` turns the result into
numbers for a table. All three work on float64 copies of one chunk, so the answer is NumPy's on the float64 values, for
every dtype that converts to float64; no copy of a whole tensor is made and no tensor is written.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from lightning_init.chunks import Widener, chunks, obstacle, pieces, real
from lightning_init.errors import InitError
from lightning_init.garbage import uncollected
from lightning_init.gathering import joined
from lightning_init.sharding import is_sharded, local
from lightning_init.sums import Reader, sums_there
from lightning_init.workers import Workers, one_core

__all__ = [
    "STATISTICS",
    "Moments",
    "merge",
    "moments",
    "moments_of_all",
    "statistics",
    "statistics_of",
]

STATISTICS: tuple[str, ...] = ("mean", "std", "min", "max", "abs_mean", "l2_norm", "zero_fraction", "nonfinite")
"""The names of the statistics, in the order of every table."""

# Elements that a thread reads at a time.
_BATCH = 2**20

_SPREAD = "is a DTensor, spread over ranks: pass its full_tensor() or its to_local()"


@dataclass(frozen=True)
class Moments:
    """What is remembered of some numbers: sums that `merge` can join. Without arguments, those of no numbers at all.

    Attributes:
        count: How many numbers there were.
        total: Their sum.
        squares: The sum of their squares.
        deviations: The sum of their squared deviations from their own mean.
        magnitudes: The sum of their absolute values.
        low: The smallest; NaN if any is NaN, or if there are none.
        high: The largest; NaN if any is NaN, or if there are none.
        zeros: How many are zero, of either sign.
        nonfinite: How many are NaN or infinite.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    deviations: float = 0.0
    magnitudes: float = 0.0
    low: float = math.nan
    high: float = math.nan
    zeros: int = 0
    nonfinite: int = 0


def moments(tensor: Tensor) -> Moments:
    """Read a tensor once, in chunks; twice if it holds numbers that are not finite.

    Every element is converted to float64 first (integers beyond 2**53 are rounded by that). A complex tensor is
    measured by its magnitudes ``|z|``. Each reading waits for the tensor's device once (on Apple's GPUs, per chunk).

    Args:
        tensor: Any shape, strides, device and dtype that converts to float64; it is not written.

    Returns:
        The sums over all its elements.

    Raises:
        InitError: It has no values that could be read here: ``meta``, lazy, sparse or quantized tensors, a ``DTensor``.

    Example:
        >>> moments(torch.tensor([1.0, 3.0])).deviations
        2.0
    """
    if reason := obstacle(tensor) or _SPREAD * is_sharded(tensor):
        raise InitError(reason)
    return _read([tensor])[0]


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of all the numbers behind ``a`` and ``b``.

    The squared deviations are joined by the pairwise formula of Chan, Golub and LeVeque (1983, "Algorithms for
    computing the sample variance"), which does not cancel when the mean is large.

    Example:
        >>> statistics(merge(moments(torch.tensor([1.0])), moments(torch.tensor([3.0]))))["mean"]
        2.0
    """
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    shift = b.total / b.count - a.total / a.count
    return Moments(
        count=count,
        total=a.total + b.total,
        squares=a.squares + b.squares,
        deviations=a.deviations + b.deviations + shift * shift * (a.count * b.count / count),
        magnitudes=a.magnitudes + b.magnitudes,
        low=_pick(min, a.low, b.low),
        high=_pick(max, a.high, b.high),
        zeros=a.zeros + b.zeros,
        nonfinite=a.nonfinite + b.nonfinite,
    )


def statistics(moments: Moments) -> dict[str, float]:
    """The numbers that `STATISTICS` names.

    ``std`` is the unbiased one (divisor n - 1), NaN below two elements. Of no elements, ``l2_norm`` and ``nonfinite``
    are zero and all others NaN. NaN and infinities give what NumPy gives: they spread to the sums, and NaN to ``min``
    and ``max``; ``nonfinite`` counts both.

    Example:
        >>> statistics(moments(torch.tensor([1.0, 2.0])))["std"]
        0.7071067811865476
    """
    count = moments.count or math.nan
    values = (
        moments.total / count,
        math.sqrt(moments.deviations / (count - 1)) if count > 1 else math.nan,
        moments.low,
        moments.high,
        moments.magnitudes / count,
        math.sqrt(moments.squares),
        moments.zeros / count,
        float(moments.nonfinite),
    )
    return dict(zip(STATISTICS, values, strict=True))


def statistics_of(tensor: Tensor) -> dict[str, float]:
    """The statistics of one tensor; see `moments` and `statistics`.

    Example:
        >>> statistics_of(torch.tensor([0.0, 3.0, -4.0]))["l2_norm"]
        5.0
    """
    return statistics(moments(tensor))


@uncollected()
def moments_of_all(tensors: Mapping[str, Tensor], threads: int | None = None) -> dict[str, Moments]:
    """The moments of named tensors; of a ``DTensor`` those of the whole, which no rank ever holds.

    With a ``DTensor`` among them, every rank has to call this, with the same names.

    Args:
        tensors: The tensors.
        threads: How many threads read what is on the CPU; by default as many as torch may use.

    Raises:
        InitError: A tensor has no values that could be read here.
    """
    here = [local(tensor) for tensor in tensors.values()]
    found = dict(zip(tensors, _read(here, threads), strict=True))
    return joined("the statistics of weights", tensors, found, merge)


def _read(tensors: Sequence[Tensor], threads: int | None = None) -> list[Moments]:
    """The moments of tensors, those on the CPU by as many threads; other devices are waited for once, at the end."""
    found = [Moments() for _ in tensors]
    views = [(i, piece) for i, tensor in enumerate(tensors) for piece in pieces(tensor)]
    for device in dict.fromkeys(piece.device for _, piece in views):
        there = [(i, piece) for i, piece in views if piece.device == device]
        for (i, _), row in zip(there, _rows([piece for _, piece in there], device, threads), strict=True):
            found[i] = merge(found[i], _moments_of_row(row))
    return [known if math.isfinite(known.squares) else _counted(known, tensors[i]) for i, known in enumerate(found)]


def _rows(views: Sequence[Tensor], device: torch.device, threads: int | None) -> list[list[float]]:
    """The fields of `Moments` but for `nonfinite`, in order, of each of some views on one device."""
    if device.type != "cpu":
        widened = Widener()
        # One answer for all: each one waits for the device.
        rows: list[list[float]] = torch.stack([sums_there(widened(real(view))) for view in views]).tolist()
    else:
        own = _OfThread()
        with closing(Workers(threads)) as workers:
            read = workers.run([partial(_read_here, own, some) for some in _batches(views)])
        rows = list(chain.from_iterable(read))
    return [[view.numel(), *row] for view, row in zip(views, rows, strict=True)]


class _OfThread(threading.local):
    """A thread's memory for chunks, which it would wait for if it was new for every batch."""

    def __init__(self) -> None:
        self.reader = Reader()


def _read_here(own: _OfThread, views: Sequence[Tensor]) -> list[list[float]]:
    # Sums differ with the number of cores. What torch keeps of tensors for gradients costs a part of the time.
    with one_core(), torch.inference_mode():
        return [list(own.reader.sums(real(view))) for view in views]


def _batches(views: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Successive views, as many as are worth a thread's while."""
    start = held = 0
    for end, view in enumerate(views, 1):
        held += view.numel()
        if held >= _BATCH or end == len(views):
            yield views[start:end]
            start, held = end, 0


def _counted(known: Moments, tensor: Tensor) -> Moments:
    """With the number of what is not finite, which the sums only hint at."""
    finite = torch.stack([torch.isfinite(block).sum() for block in chunks(tensor)])
    return replace(known, nonfinite=known.count - int(finite.sum()))


def _pick(choose: Callable[[float, float], float], a: float, b: float) -> float:
    # Python's `min` and `max` drop or keep a NaN depending on its position.
    return math.nan if math.isnan(a) or math.isnan(b) else choose(a, b)


def _moments_of_row(row: list[float]) -> Moments:
    count, total, squares, deviations, magnitudes, low, high, nonzero = row
    return Moments(int(count), total, squares, deviations, magnitudes, low, high, int(count - nonzero))
