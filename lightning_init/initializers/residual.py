"""The ends of residual branches, so that a deep network starts calm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans
from lightning_init.initializers.laws import ConstantLaw, Law, normal_law

__all__ = ["DepthScaledInit", "ZeroLastInit"]


@INITIALIZERS.register
@dataclass(frozen=True)
class DepthScaledInit(LawInitializer):
    r"""Draws weights with the standard deviation ``std / sqrt(branches * depth)``.

    For the projections that end the residual branches of a transformer, which a rule names:
    ``dict(type="DepthScaled", depth=12, name="re:blocks\\.\\d+\\.(attn|mlp)\\.proj")``. With two branches in a block,
    the sum of all branches then varies as much as one would alone. Radford et al., "Language Models are Unsupervised
    Multitask Learners" (GPT-2), 2019, section 2.3.

    Args:
        depth: How many blocks the network has, at least 1.
        std: The standard deviation of the other weights, not negative.
        branches: How many residual branches a block has, at least 1.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> DepthScaledInit(depth=8, std=0.02).law((4, 4), None)
    NormalLaw(loc=0.0, scale=0.005)
    """

    depth: int
    std: float = 0.02
    branches: int = 2

    def check(self, checks: Checks) -> None:
        """Checks the numbers."""
        checks.number("std", self.std, at_least=0)
        for name in ("depth", "branches"):
            value = getattr(self, name)
            if checks.number(name, value, at_least=1) and value != int(value):
                checks.fault(name, f"must be a whole number, got {value}")

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """The normal law."""
        return normal_law(0.0, self.std / math.sqrt(self.branches * self.depth))


@INITIALIZERS.register
@dataclass(frozen=True)
class ZeroLastInit(LawInitializer):
    """Fills the last layer of a residual branch with zeros, so that every block starts as the identity.

    The rule names that layer: the last normalisation, ``dict(type="ZeroLast", name="layer*.*.bn3")`` (Goyal et al.,
    "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section 5.1), or the last projection,
    ``dict(type="ZeroLast", name="blocks.*.mlp.proj")`` (Zhang et al., "Fixup Initialization", 2019).

    Args:
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> ZeroLastInit().law((4,), None)
    ConstantLaw(value=0.0)
    """

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """Zero."""
        return ConstantLaw(0.0)
