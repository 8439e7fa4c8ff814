"""Uniform weights between given bounds."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans
from lightning_init.initializers.laws import Law, uniform_law

__all__ = ["UniformInit"]


@INITIALIZERS.register
@dataclass(frozen=True)
class UniformInit(LawInitializer):
    """Draws weights from the uniform law.

    Args:
        a: The lower bound.
        b: The upper bound, not below ``a``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> UniformInit(-0.1, 0.1).describe()
    'Uniform(a=-0.1, b=0.1)'
    """

    a: float = 0
    b: float = 1

    def check(self, checks: Checks) -> None:
        """Checks the bounds."""
        bounds = [checks.number(name, getattr(self, name)) for name in ("a", "b")]
        if all(bounds) and self.a > self.b:
            checks.fault("a", f"must be <= b, got a={self.a} and b={self.b}")

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """The uniform law."""
        return uniform_law(self.a, self.b)
