"""The initializers as functions of one module, with MMEngine's names, arguments and defaults.

Each writes the module's own ``weight`` and ``bias``, where it has them and they are not None, and leaves its children
alone. The numbers come from torch's default generator, as those of `torch.nn.init` do.

Raises:
    InitConfigError: Every function raises it for wrong arguments and for parameters that cannot be written (lazy, on
        the meta device, of an integer type, of one dimension where fans are needed), before it writes anything.
"""

from __future__ import annotations

from torch import nn

from lightning_init.initializers.base import write_modules
from lightning_init.initializers.constant import ConstantInit
from lightning_init.initializers.formulas import bias_init_with_prob
from lightning_init.initializers.normal import NormalInit, TruncNormalInit
from lightning_init.initializers.uniform import UniformInit
from lightning_init.initializers.variance import (
    Caffe2XavierInit,
    Distribution,
    KaimingInit,
    Mode,
    Nonlinearity,
    XavierInit,
)

__all__ = [
    "bias_init_with_prob",
    "caffe2_xavier_init",
    "constant_init",
    "kaiming_init",
    "normal_init",
    "trunc_normal_init",
    "uniform_init",
    "xavier_init",
]


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fills the weight with one value.

    Args:
        module: The module.
        val: The value.
        bias: The constant that the bias gets.

    >>> conv = nn.Conv2d(1, 1, 1)
    >>> constant_init(conv, 2, bias=3)
    >>> conv.weight.item(), conv.bias.item()
    (2.0, 3.0)
    """
    write_modules(ConstantInit(val, bias=bias), [("", module)])


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0, distribution: Distribution = "normal") -> None:
    """Draws the weight as `XavierInit` does.

    Args:
        module: The module.
        gain: Factor on the standard deviation.
        bias: The constant that the bias gets.
        distribution: ``"normal"`` or ``"uniform"``.
    """
    write_modules(XavierInit(gain, distribution, bias=bias), [("", module)])


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draws the weight from the normal law.

    Args:
        module: The module.
        mean: Its mean.
        std: Its standard deviation.
        bias: The constant that the bias gets.
    """
    write_modules(NormalInit(mean, std, bias=bias), [("", module)])


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Draws the weight from the normal law between two bounds.

    Args:
        module: The module.
        mean: The mean before the cut.
        std: The standard deviation before the cut.
        a: The lower bound, as a value of a weight.
        b: The upper bound, likewise.
        bias: The constant that the bias gets.
    """
    write_modules(TruncNormalInit(mean, std, a, b, bias=bias), [("", module)])


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draws the weight from the uniform law.

    Args:
        module: The module.
        a: The lower bound.
        b: The upper bound.
        bias: The constant that the bias gets.
    """
    write_modules(UniformInit(a, b, bias=bias), [("", module)])


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: Mode = "fan_out",
    nonlinearity: Nonlinearity = "relu",
    bias: float = 0,
    distribution: Distribution = "normal",
) -> None:
    """Draws the weight as `KaimingInit` does.

    Args:
        module: The module.
        a: The slope of the rectifier below zero, for ``"leaky_relu"``.
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: The function behind the layer, by torch's name for it.
        bias: The constant that the bias gets.
        distribution: ``"normal"`` or ``"uniform"``.
    """
    write_modules(KaimingInit(a, mode, nonlinearity, distribution, bias=bias), [("", module)])


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Draws the weight as `Caffe2XavierInit` does.

    Args:
        module: The module.
        bias: The constant that the bias gets.
    """
    write_modules(Caffe2XavierInit(bias=bias), [("", module)])
