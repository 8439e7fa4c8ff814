"""Weights with a variance that follows from the fans of the layer, in the general form of Keras and JAX."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans, required
from lightning_init.initializers.laws import Law, normal_law, uniform_law
from lightning_init.initializers.truncated import TruncNormalLaw

__all__ = ["HeInit", "LeCunInit", "Scaling", "ScalingMode", "VarianceScalingInit"]

Scaling: TypeAlias = Literal["normal", "uniform", "truncated_normal"]
ScalingMode: TypeAlias = Literal["fan_in", "fan_out", "fan_avg"]

_CUT = 2.0
"""Where the normal law is cut, in its standard deviations."""

_CUT_STD = TruncNormalLaw(0.0, 1.0, -_CUT, _CUT).std
"""What is left of a standard deviation of 1 behind the cut, 0.8796."""


def scaled_law(variance: float, distribution: Scaling) -> Law:
    """The law around zero with a variance, also where it is cut."""
    std = math.sqrt(variance)
    if distribution == "uniform":
        return uniform_law(-math.sqrt(3) * std, math.sqrt(3) * std)
    if distribution == "normal" or not std:
        return normal_law(0.0, std)
    scale = std / _CUT_STD
    return TruncNormalLaw(0.0, scale, -_CUT * scale, _CUT * scale)


@INITIALIZERS.register
@dataclass(frozen=True)
class VarianceScalingInit(LawInitializer):
    """Draws weights with the variance ``scale / fan``.

    It is ``jax.nn.initializers.variance_scaling`` and Keras's ``VarianceScaling``, in whose terms the others can be
    written: Xavier is 1, ``"fan_avg"``, LeCun 1, ``"fan_in"``, He 2, ``"fan_in"``. The truncated normal law is cut at
    two of its standard deviations, and widened so that what is left has this variance.

    Args:
        scale: Factor on the variance, not negative.
        mode: The fan: ``"fan_in"``, ``"fan_out"``, or their mean, ``"fan_avg"``.
        distribution: ``"normal"``, ``"uniform"`` or ``"truncated_normal"``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> VarianceScalingInit(2, "fan_avg").law((30, 20), Fans(20, 30)).std ** 2 * 25
    2.0
    """

    scale: float = 1
    mode: ScalingMode = "fan_in"
    distribution: Scaling = "normal"

    def check(self, checks: Checks) -> None:
        """Checks the factor and the names."""
        checks.number("scale", self.scale, at_least=0)
        checks.choice("mode", self.mode, get_args(ScalingMode))
        checks.choice("distribution", self.distribution, get_args(Scaling))

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law for these fans."""
        fan_in, fan_out = required(fans, shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return scaled_law(self.scale / max(fan, 1), self.distribution)


@dataclass(frozen=True)
class _Named(LawInitializer):
    """Variance scaling by ``fan_in`` with a factor of its own."""

    distribution: Scaling = "truncated_normal"

    scale: ClassVar[float]

    def check(self, checks: Checks) -> None:
        """Checks the name of the distribution."""
        checks.choice("distribution", self.distribution, get_args(Scaling))

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law for these fans."""
        return scaled_law(self.scale / max(required(fans, shape).fan_in, 1), self.distribution)


@INITIALIZERS.register
@dataclass(frozen=True)
class LeCunInit(_Named):
    """Draws weights with the variance ``1 / fan_in``, the start of self-normalising networks (SELU).

    LeCun et al., "Efficient BackProp", 1998, section 4.6; JAX's ``lecun_normal`` and ``lecun_uniform``.

    Args:
        distribution: ``"truncated_normal"``, ``"normal"`` or ``"uniform"``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> round(LeCunInit().law((8, 16), Fans(16, 8)).std, 12)
    0.25
    """

    scale: ClassVar[float] = 1


@INITIALIZERS.register
@dataclass(frozen=True)
class HeInit(_Named):
    """Draws weights with the variance ``2 / fan_in``, for rectifiers.

    He et al., "Delving Deep into Rectifiers", 2015, equation 10; JAX's ``he_normal`` and ``he_uniform``. Kaiming is the
    same with torch's arguments, where ``fan_out`` is the default.

    Args:
        distribution: ``"truncated_normal"``, ``"normal"`` or ``"uniform"``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> round(HeInit("uniform").law((8, 32), Fans(32, 8)).std, 12)
    0.25
    """

    scale: ClassVar[float] = 2
