"""Two small formulas that initializers share: fans from a shape, and a bias from a probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_init.errors import InitConfigError
from lightning_init.initializers.checks import Checks

__all__ = ["Fans", "bias_init_with_prob", "fans_of", "required"]


class Fans(NamedTuple):
    """How many inputs an output of a layer sums over, and how many outputs an input reaches."""

    fan_in: int
    fan_out: int


def fans_of(shape: Sequence[int]) -> Fans | None:
    """The fans of a weight, by torch's convention: outputs first, inputs second, then the receptive field.

    Returns:
        The fans; None below two dimensions, where they do not exist.

    >>> fans_of((8, 3, 5, 5))
    Fans(fan_in=75, fan_out=200)
    """
    if len(shape) < 2:
        return None
    field = math.prod(shape[2:])
    return Fans(shape[1] * field, shape[0] * field)


def required(fans: Fans | None, shape: tuple[int, ...]) -> Fans:
    """The fans of a weight that has to have some.

    Raises:
        InitConfigError: It has none.
    """
    if fans is None:
        raise InitConfigError(
            f"fan_in and fan_out need at least two dimensions, and its shape is {shape}; initialise such weights with "
            f"Normal, Uniform or Constant, and name in `layer` only classes whose weight is a matrix or a kernel"
        )
    return fans


def bias_init_with_prob(prior_prob: float) -> float:
    """The bias at which a sigmoid gives a probability: ``-log((1 - p) / p)``.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, section 4.1.

    Args:
        prior_prob: A float strictly between 0 and 1.

    Raises:
        InitConfigError: It is something else.

    >>> round(bias_init_with_prob(0.01), 5)
    -4.59512
    """
    checks = Checks()
    checks.probability("prior_prob", prior_prob)
    checks.close()
    return math.log(prior_prob) - math.log1p(-prior_prob)
