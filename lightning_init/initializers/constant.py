"""One value everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans
from lightning_init.initializers.laws import ConstantLaw, Law

__all__ = ["ConstantInit"]


@INITIALIZERS.register
@dataclass(frozen=True)
class ConstantInit(LawInitializer):
    """Fills weights with one value.

    Args:
        val: The value.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> from torch import nn
    >>> norm = nn.BatchNorm2d(2)
    >>> ConstantInit(val=0.5, bias=-1, layer="BatchNorm2d")(norm)
    >>> norm.weight.tolist(), norm.bias.tolist()
    ([0.5, 0.5], [-1.0, -1.0])
    """

    val: float

    def check(self, checks: Checks) -> None:
        """Checks the value."""
        checks.number("val", self.val)

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """The constant."""
        return ConstantLaw(self.val)
