"""The laws that initial values follow: constant, normal, uniform, truncated normal.

A law fills flat blocks of numbers and knows its moments and bounds, so the same object serves a whole tensor, a shard
of one, threads, and the expected values in a report.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["ConstantLaw", "Law", "NormalLaw", "UniformLaw", "centred_", "centred_words", "normal_law", "uniform_law"]

# Of so few numbers, more steps cost more than they save.
_MANY = 2**12
# From so many on torch draws normal numbers in sixteens, below in pairs of float64.
_SIXTEEN = 16
# What is below has lost digits.
_SMALLEST = torch.finfo(torch.float32).tiny


class Law(ABC):
    """A distribution of independent, equally distributed numbers.

    Attributes:
        drawn_apart: On the CPU, blocks of a large tensor are filled faster in memory that is in the cache, and copied.
    """

    drawn_apart: ClassVar[bool] = False

    @property
    @abstractmethod
    def mean(self) -> float:
        """Its expected value."""

    @property
    @abstractmethod
    def std(self) -> float:
        """Its standard deviation."""

    @property
    @abstractmethod
    def low(self) -> float:
        """No number is smaller, up to rounding; ``-inf`` where there is no bound."""

    @property
    @abstractmethod
    def high(self) -> float:
        """No number is larger, up to rounding; ``inf`` where there is no bound."""

    @property
    def kurtosis(self) -> float | None:
        """Its fourth central moment over its squared variance, 3 for the normal law; None where it is not known.

        A report judges a measured std by it, and cannot judge it without.
        """
        return None

    def words(self, numel: int, dtype: torch.dtype) -> int | None:  # noqa: ARG002  # for laws that know
        """How many words of 32 bits `fill` draws from a CPU's generator at most.

        Args:
            numel: How many elements the block has.
            dtype: Their type, float32 or float64.

        Returns:
            The number; None where it is not known, or where `fill` uses the generator beyond its return.
        """
        return None

    @abstractmethod
    def fill(self, block: Tensor, generator: torch.Generator | None) -> None:
        """Fills a block in place.

        Numbers around zero, or from zero on, are drawn first and moved by ``add_`` afterwards: unless what they add is
        zero, the ``normal_(mean, std)`` and ``uniform_(low, high)`` of torch give other bits on CPUs with other vector
        units.

        Args:
            block: A flat, contiguous tensor of float32 or float64.
            generator: Of the block's device; None for torch's default generator.
        """


@dataclass(frozen=True)
class ConstantLaw(Law):
    """One value everywhere; fills a tensor of any dtype and layout.

    Attributes:
        value: That value.
    """

    value: float

    @property
    def mean(self) -> float:
        """The value."""
        return self.value

    @property
    def std(self) -> float:
        """Zero."""
        return 0.0

    @property
    def low(self) -> float:
        """The value."""
        return self.value

    @property
    def high(self) -> float:
        """The value."""
        return self.value

    def words(self, numel: int, dtype: torch.dtype) -> int:  # noqa: ARG002  # draws nothing
        """Zero."""
        return 0

    def fill(self, block: Tensor, generator: torch.Generator | None = None) -> None:  # noqa: ARG002  # draws nothing
        """Fills a block in place."""
        if self.value or math.copysign(1, self.value) < 0:
            block.fill_(self.value)
        else:
            # It takes a third of the time.
            block.zero_()


@dataclass(frozen=True)
class NormalLaw(Law):
    """The normal law.

    Attributes:
        loc: Its mean.
        scale: Its standard deviation, positive.
    """

    # torch goes over what it fills twice.
    drawn_apart = True

    loc: float
    scale: float

    @property
    def mean(self) -> float:
        """``loc``."""
        return self.loc

    @property
    def std(self) -> float:
        """``scale``."""
        return self.scale

    @property
    def low(self) -> float:
        """No bound."""
        return -math.inf

    @property
    def high(self) -> float:
        """No bound."""
        return math.inf

    @property
    def kurtosis(self) -> float:
        """3."""
        return 3.0

    def words(self, numel: int, dtype: torch.dtype) -> int:
        """Two for a number of float64; torch draws pairs one at a time, or sixteens of which the last two overlap."""
        of_float32 = numel + 16 if numel >= _SIXTEEN else 2 * numel + 2
        return of_float32 if dtype is torch.float32 else 2 * numel + 32

    def fill(self, block: Tensor, generator: torch.Generator | None) -> None:
        """Fills a block in place."""
        block.normal_(0, self.scale, generator=generator)
        if self.loc:
            block.add_(self.loc)


@dataclass(frozen=True)
class UniformLaw(Law):
    """The uniform law.

    Attributes:
        a: Its lower bound.
        b: Its upper bound, above ``a``.
    """

    drawn_apart = True

    a: float
    b: float

    @property
    def mean(self) -> float:
        """The middle."""
        return self.a / 2 + self.b / 2

    @property
    def std(self) -> float:
        """The width over the root of twelve."""
        return (self.b - self.a) / math.sqrt(12)

    @property
    def low(self) -> float:
        """``a``."""
        return self.a

    @property
    def high(self) -> float:
        """``b``."""
        return self.b

    @property
    def kurtosis(self) -> float:
        """9/5."""
        return 1.8

    def words(self, numel: int, dtype: torch.dtype) -> int:
        """Those of as many `centred_` numbers."""
        return centred_words(numel, dtype)

    def fill(self, block: Tensor, generator: torch.Generator | None) -> None:
        """Fills a block in place."""
        centred_(block, self.b - self.a, generator)
        if self.mean:
            block.add_(self.mean)
        if self.a != -self.b:
            # A width that was rounded up can lead past `b`. With symmetric bounds it is the exact double of `b`.
            block.clamp_(self.a, self.b)


def centred_(block: Tensor, width: float, generator: torch.Generator | None) -> None:
    """Fills a block with uniform numbers around zero.

    Args:
        block: A contiguous tensor of float32 or float64.
        width: They reach from ``-width / 2`` up to, but not including, ``width / 2``, in steps of ``width * 2**-24``
            for float32 and of ``width * 2**-53`` for float64.
        generator: Of the block's device; None for torch's default generator.
    """
    step = width * 2**-24
    if block.dtype is not torch.float32 or block.device.type != "cpu" or block.numel() < _MANY or step < _SMALLEST:
        block.uniform_(generator=generator).sub_(0.5).mul_(width)
        return
    # `uniform_` takes 24 bits of one word after the other. 64 bits at a time, and vectors for what follows, take two
    # thirds of its time. Signed integers lie around zero.
    words = _as_words(block)
    integers = words.random_(-(2**63), None, generator=generator).view(torch.int32)[: block.numel()]
    block.view(-1).copy_(integers.bitwise_right_shift_(8)).mul_(step)


def centred_words(numel: int, dtype: torch.dtype) -> int:
    """How many words of 32 bits `centred_` draws from a CPU's generator at most: two for one number of float64, or for
    a pair of float32.
    """  # noqa: D205 - one sentence
    return numel + 1 if dtype is torch.float32 else 2 * numel


def _as_words(block: Tensor) -> Tensor:
    """Memory for 64 bits for every two numbers of a block: its own, where that can be."""
    flat = block.view(-1)
    if flat.numel() % 2 or flat.data_ptr() % 8 or flat.storage_offset() % 2:
        return torch.empty((flat.numel() + 1) // 2, dtype=torch.int64, device=block.device)
    return flat.view(torch.int64)


def normal_law(mean: float, std: float) -> Law:
    """The normal law, or the constant that it is at ``std == 0``.

    >>> normal_law(1.0, 0.0)
    ConstantLaw(value=1.0)
    """
    return NormalLaw(mean, std) if std else ConstantLaw(mean)


def uniform_law(low: float, high: float) -> Law:
    """The uniform law, or the constant that it is at ``low == high``.

    >>> uniform_law(0.0, 0.0)
    ConstantLaw(value=0.0)
    """
    return UniformLaw(low, high) if low < high else ConstantLaw(low)
