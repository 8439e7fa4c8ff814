"""Weights with a variance that follows from the fans of the layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch.nn import init

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans, required
from lightning_init.initializers.laws import Law, normal_law, uniform_law

__all__ = ["Caffe2XavierInit", "Distribution", "KaimingInit", "Mode", "Nonlinearity", "XavierInit"]

Distribution: TypeAlias = Literal["normal", "uniform"]
Mode: TypeAlias = Literal["fan_in", "fan_out"]
Nonlinearity: TypeAlias = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]


def _variance_scaling(gain: float, fan: float, distribution: Distribution) -> Law:
    """The law around zero with the standard deviation ``gain / sqrt(fan)``.

    Args:
        gain: Factor on the standard deviation.
        fan: The number of terms that a layer sums over; 0 in an empty weight, where the law does not matter.
        distribution: ``"normal"`` or ``"uniform"``.
    """
    std = gain / math.sqrt(max(fan, 1))
    bound = math.sqrt(3) * std
    return normal_law(0.0, std) if distribution == "normal" else uniform_law(-bound, bound)


@INITIALIZERS.register
@dataclass(frozen=True)
class XavierInit(LawInitializer):
    """Draws weights with the variance ``gain ** 2 * 2 / (fan_in + fan_out)``.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

    Args:
        gain: Factor on the standard deviation, not negative.
        distribution: ``"normal"`` or ``"uniform"``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> XavierInit().law((30, 20), Fans(20, 30))
    NormalLaw(loc=0.0, scale=0.2)
    """

    gain: float = 1
    distribution: Distribution = "normal"

    def check(self, checks: Checks) -> None:
        """Checks the gain and the distribution."""
        checks.number("gain", self.gain, at_least=0)
        checks.choice("distribution", self.distribution, get_args(Distribution))

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law for these fans."""
        fan_in, fan_out = required(fans, shape)
        return _variance_scaling(self.gain, (fan_in + fan_out) / 2, self.distribution)


@INITIALIZERS.register
@dataclass(frozen=True)
class KaimingInit(LawInitializer):
    """Draws weights with the variance ``gain ** 2 / fan``.

    He et al., "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification", 2015. The
    gain is torch's for the nonlinearity behind the layer (`torch.nn.init.calculate_gain`).

    Args:
        a: The slope of the rectifier below zero, for ``"leaky_relu"``.
        mode: ``"fan_in"`` keeps the variance of activations, ``"fan_out"`` that of gradients.
        nonlinearity: The function behind the layer, by torch's name for it.
        distribution: ``"normal"`` or ``"uniform"``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> KaimingInit().describe()
    "Kaiming(a=0, mode='fan_out', nonlinearity='relu', distribution='normal')"
    >>> KaimingInit().law((50, 20), Fans(20, 50))
    NormalLaw(loc=0.0, scale=0.2)
    """

    a: float = 0
    mode: Mode = "fan_out"
    nonlinearity: Nonlinearity = "relu"
    distribution: Distribution = "normal"

    def check(self, checks: Checks) -> None:
        """Checks the slope and the names."""
        # The gain takes the square of the slope.
        if checks.number("a", self.a) and abs(self.a) > 1e150:
            checks.fault("a", f"must be the slope of a rectifier, got {self.a:g}")
        checks.choice("mode", self.mode, get_args(Mode))
        checks.choice("nonlinearity", self.nonlinearity, get_args(Nonlinearity))
        checks.choice("distribution", self.distribution, get_args(Distribution))

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law for these fans."""
        fan_in, fan_out = required(fans, shape)
        gain: float = init.calculate_gain(self.nonlinearity, self.a)
        return _variance_scaling(gain, fan_in if self.mode == "fan_in" else fan_out, self.distribution)


@INITIALIZERS.register
@dataclass(frozen=True)
class Caffe2XavierInit(LawInitializer):
    """Draws weights uniformly with the variance ``1 / fan_in``, as the ``XavierFill`` of Caffe2 does.

    Args:
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> round(Caffe2XavierInit().law((4, 16), Fans(16, 4)).std, 6)
    0.25
    """

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law of Kaiming with the gain of a leaky rectifier of slope 1."""
        fan_in, _ = required(fans, shape)
        return _variance_scaling(init.calculate_gain("leaky_relu", 1), fan_in, "uniform")
