"""The truncated normal law, exact in the middle, in narrow intervals and far out in a tail.

Where the interval holds a good part of the normal law and none of its tails, a number is the inverse of the
distribution function of a uniform one: the inverse of the error function, in float32 or better, is exact there to a
millionth of a standard deviation. Its last bit may be another one on CPUs with other vector units. (Below float32, or
out in a tail, it puts what it cannot tell apart onto the bounds.)

Elsewhere values are proposed and accepted or rejected, and the rejected ones drawn again (J. von Neumann, "Various
techniques used in connection with random digits", 1951), which gives the law itself. The proposals are

- normal numbers, where the interval reaches into a tail and holds a good part of the law;
- numbers from an exponential law with the slope of the density at the nearer bound, cut off at the other one, for a
  piece of a tail (C. P. Robert, "Simulation of truncated normal variables", Statistics and Computing 5, 1995);
- uniform numbers for what is too narrow for either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_init.initializers.dispatch import settle
from lightning_init.initializers.laws import Law, centred_, centred_words

__all__ = ["TruncNormalLaw"]

# Below this share of normal numbers in the interval the other proposals are accepted more often than normal ones.
_NORMAL_SHARE = 0.35
# A uniform number of float32 has 2**24 values: at three deviations their distance becomes one of 7e-6 deviations.
_INVERTED_REACH = 3.0
# torch makes a normal number from a uniform one of at most 53 bits: it never is further out than 8.6.
_REACH = 9.0
# Where the density has fallen by exp(-_DECAY) the rest does not count in a double.
_DECAY = 50.0
_PANELS = 128
# Nodes and weights of the Gauss-Legendre rule of five points on [0, 1].
_INNER, _OUTER = (math.sqrt(5 + sign * 2 * math.sqrt(10 / 7)) / 6 for sign in (-1, 1))
_INNER_WEIGHT, _OUTER_WEIGHT = ((322 + sign * 13 * math.sqrt(70)) / 1800 for sign in (1, -1))
_RULE = (
    (0.5 - _OUTER, _OUTER_WEIGHT),
    (0.5 - _INNER, _INNER_WEIGHT),
    (0.5, 64 / 225),
    (0.5 + _INNER, _INNER_WEIGHT),
    (0.5 + _OUTER, _OUTER_WEIGHT),
)


@dataclass(frozen=True)
class TruncNormalLaw(Law):
    """A normal law on the condition that the number lies between two bounds.

    Attributes:
        loc: The mean of the normal law before the cut; it may lie outside of the bounds, at any distance.
        scale: Its standard deviation before the cut, positive.
        a: The lower bound, ``-inf`` for none.
        b: The upper bound, not below ``a``, ``inf`` for none.
    """

    drawn_apart = True

    loc: float
    scale: float
    a: float
    b: float

    @property
    def mean(self) -> float:
        """The mean after the cut."""
        return self._moments[0]

    @property
    def std(self) -> float:
        """The standard deviation after the cut."""
        return self._moments[1]

    @property
    def low(self) -> float:
        """``a``."""
        return self.a

    @property
    def high(self) -> float:
        """``b``."""
        return self.b

    @property
    def kurtosis(self) -> float | None:
        """The kurtosis after the cut; None where nothing is left but a point."""
        return self._moments[2]

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        """The bounds in standard deviations from ``loc``."""
        return (self.a - self.loc) / self.scale, (self.b - self.loc) / self.scale

    @cached_property
    def _side(self) -> tuple[float, float, float]:
        """The interval as seen from a bound: (that bound, slope of the log density there, step inwards).

        Distances from it are what is drawn and integrated: far out in a tail the bound has too few digits left to tell
        the numbers of the interval apart. It is the bound next to ``loc``, or ``a`` where ``loc`` lies between them.
        """
        alpha, beta = self._bounds
        return (self.b, -beta, -self.scale) if beta < 0 else (self.a, alpha, self.scale)

    @cached_property
    def _moments(self) -> tuple[float, float, float | None]:
        """Mean, standard deviation and kurtosis, by quadrature.

        The closed forms cancel in narrow intervals and in the tails.
        """
        alpha, beta = self._bounds
        origin, slope, step = self._side
        reach = math.sqrt(2 * _DECAY)
        if slope <= 0:
            origin, slope, low, high = self.loc, 0.0, max(alpha, -reach), min(beta, reach)
        else:
            low, high = 0.0, min((self.b - self.a) / self.scale, 2 * _DECAY / (slope + math.hypot(slope, reach)))
        if low == high:
            return origin + step * low, 0.0, None
        points = []
        for panel in range(_PANELS):
            for node, weight in _RULE:
                y = low + (high - low) * (panel + node) / _PANELS
                points.append((y, weight * math.exp(-y * (slope + y / 2))))
        total = math.fsum(weight for _, weight in points)
        mean = math.fsum(weight * y for y, weight in points) / total
        variance = math.fsum(weight * (y - mean) ** 2 for y, weight in points) / total
        fourth = math.fsum(weight * (y - mean) ** 4 for y, weight in points) / total
        # In the narrowest intervals there is less than a double can square.
        kurtosis = fourth / variance**2 if variance**2 else None
        return origin + step * mean, self.scale * math.sqrt(variance), kurtosis

    def words(self, numel: int, dtype: torch.dtype) -> int | None:
        """Those of as many uniform numbers, where the distribution function is inverted."""
        return centred_words(numel, dtype) if self._is_inverted else None

    @cached_property
    def _quantiles(self) -> tuple[float, float]:
        """The error function at the bounds: twice the distribution function of the normal law, less one."""
        alpha, beta = self._bounds
        return math.erf(alpha / math.sqrt(2)), math.erf(beta / math.sqrt(2))

    @cached_property
    def _has_normal_share(self) -> bool:
        low, high = self._quantiles
        return (high - low) / 2 >= _NORMAL_SHARE

    @cached_property
    def _is_inverted(self) -> bool:
        return self._has_normal_share and max(map(abs, self._bounds)) <= _INVERTED_REACH

    def fill(self, block: Tensor, generator: torch.Generator | None) -> None:
        """Fills a block in place."""
        settle()
        if self.a == self.b:
            block.fill_(self.a)
        elif self._is_inverted:
            self._fill_by_inversion(block, generator)
        elif self._has_normal_share:
            self._fill_from_normal(block, generator)
        else:
            self._fill_from_bound(block, generator)

    def _fill_by_inversion(self, block: Tensor, generator: torch.Generator | None) -> None:
        low, high = self._quantiles
        centred_(block, high - low, generator)
        # Half a step on they are symmetric.
        block.add_((low + high) / 2 + (high - low) * torch.finfo(block.dtype).eps / 4)
        block.erfinv_().mul_(math.sqrt(2) * self.scale)
        if self.loc:
            block.add_(self.loc)
        # Not a cut: the rounding of these products and sums can step over a bound.
        block.clamp_(self.a, self.b)

    def _fill_from_normal(self, block: Tensor, generator: torch.Generator | None) -> None:
        alpha, beta = self._bounds
        cuts = max(alpha, -beta) > -_REACH

        def propose(z: Tensor) -> Tensor:
            z.normal_(generator=generator)
            return (z <= alpha) | (z >= beta)

        if cuts:
            _redraw(block, propose)
        else:
            block.normal_(generator=generator)
        block.mul_(self.scale)
        if self.loc:
            block.add_(self.loc)
        if cuts:
            # Not a cut: what is left of it can step over a bound by the rounding of this product and sum.
            block.clamp_(self.a, self.b)

    def _fill_from_bound(self, block: Tensor, generator: torch.Generator | None) -> None:
        origin, slope, step = self._side
        width = (self.b - self.a) / self.scale
        share = -math.expm1(-slope * width)
        log_peak = min(slope, 0.0) ** 2 / 2

        def propose_exponential(y: Tensor) -> Tensor:
            y.uniform_(generator=generator).mul_(-share).log1p_().div_(-slope)
            return torch.empty_like(y).uniform_(generator=generator) >= y.square().mul_(-0.5).exp_()

        def propose_uniform(y: Tensor) -> Tensor:
            y.uniform_(generator=generator).mul_(width)
            density = (y / 2).add_(slope).mul_(y).add_(log_peak).neg_().exp_()
            return torch.empty_like(y).uniform_(generator=generator) >= density

        # In float32 a uniform number has 24 bits, which shows in a tail. Apple's devices have no float64.
        wide = torch.float32 if block.device.type == "mps" else torch.float64
        distance = torch.empty(block.shape, dtype=wide, device=block.device)
        _redraw(distance, propose_exponential if slope * width > 1 else propose_uniform)
        block.copy_(distance.mul_(step).add_(origin).clamp_(self.a, self.b))


def _redraw(block: Tensor, propose: Callable[[Tensor], Tensor]) -> None:
    """Fills a block with what ``propose`` accepts.

    Args:
        block: A flat tensor.
        propose: Fills a flat tensor of any length and returns the mask of what it rejects.
    """
    waiting = propose(block).nonzero().squeeze(1)
    while waiting.numel():
        again = torch.empty(waiting.shape, dtype=block.dtype, device=block.device)
        rejected = propose(again)
        block[waiting] = again
        waiting = waiting[rejected]
