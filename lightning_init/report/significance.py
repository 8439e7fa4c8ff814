"""How probable it is that numbers which follow a law look as they do."""

from __future__ import annotations

import math

import torch

__all__ = ["mean_chance", "std_chance"]

# Beyond so many degrees of freedom the incomplete gamma function loses its tails, and the law is a normal one.
_NORMAL_FROM = 1e6
# From so many numbers on, their kurtosis alone decides how far a variance strays.
_MANY = 10_000


def mean_chance(deviation: float, std: float, n: int) -> float:
    """The probability that the mean of n numbers strays at least so far from that of their law.

    Exact for the normal law; more than the truth for uniform and symmetrically truncated ones, whose tails are lighter.

    Args:
        deviation: The distance.
        std: The standard deviation of the law.
        n: How many numbers there are.

    >>> round(mean_chance(0.196, 1.0, 100), 4)
    0.05
    """
    return math.erfc(abs(deviation) * math.sqrt(n) / std / math.sqrt(2))


def std_chance(ratio: float, n: int, kurtosis: float) -> float:
    """The probability, in both tails, that the std of n numbers strays at least so far from that of their law.

    The sample variance has a chi-squared law, exactly so for normal numbers, with as many degrees of freedom as give it
    its variance, ``(kurtosis - (n - 3) / (n - 1)) / n`` in units of the squared variance (Kenney and Keeping,
    "Mathematics of Statistics", part 2, 1951, section 7.3). Of few numbers with lighter tails than the normal law has,
    those of the normal law are taken: more than the truth.

    Args:
        ratio: The measured standard deviation over that of the law.
        n: How many numbers there are, at least two.
        kurtosis: The kurtosis of the law.

    >>> round(std_chance(1 + 1.96 / 200**0.5, 100, 3.0), 2), round(std_chance(1.0, 100, 3.0), 1)
    (0.05, 1.0)
    """
    degrees = n - 1.0
    if kurtosis > 3 or n >= _MANY:
        degrees = 2 * n / (kurtosis - (n - 3) / (n - 1))
    half = ratio**2 * degrees / 2
    if degrees > _NORMAL_FROM:
        # Fisher: the root of twice a chi-squared number is nearly normal, of variance one.
        return math.erfc(abs(2 * math.sqrt(half) - math.sqrt(2 * degrees - 1)) / math.sqrt(2))
    shape, place = (torch.tensor(value, dtype=torch.float64, device="cpu") for value in (degrees / 2, half))
    tail = torch.special.gammaincc if ratio > 1 else torch.special.gammainc
    return min(1.0, 2 * float(tail(shape, place)))
