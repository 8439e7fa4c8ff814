"""Normal weights, whole or truncated, with a given spread."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_init.initializers.base import INITIALIZERS, LawInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans
from lightning_init.initializers.laws import Law, normal_law
from lightning_init.initializers.truncated import TruncNormalLaw

__all__ = ["NormalInit", "TruncNormalInit"]


@INITIALIZERS.register
@dataclass(frozen=True)
class NormalInit(LawInitializer):
    """Draws weights from the normal law.

    Args:
        mean: Its mean.
        std: Its standard deviation, not negative.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> NormalInit(std=0.01, bias_prob=0.01).describe_bias()
    'Normal(bias=-4.59512, bias_prob=0.01)'
    """

    mean: float = 0
    std: float = 1

    def check(self, checks: Checks) -> None:
        """Checks the moments."""
        checks.number("mean", self.mean)
        checks.number("std", self.std, at_least=0)

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """The normal law."""
        return normal_law(self.mean, self.std)


@INITIALIZERS.register
@dataclass(frozen=True)
class TruncNormalInit(LawInitializer):
    """Draws weights from the normal law on the condition that they lie between two bounds.

    Args:
        mean: The mean of the normal law, before it is cut.
        std: Its standard deviation, before it is cut, positive.
        a: The lower bound, as a value of a weight (not in standard deviations).
        b: The upper bound, likewise.
        cutoff: Instead of ``a`` and ``b``: the bounds lie that many standard deviations below and above ``mean``.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> law = TruncNormalInit(std=0.02, cutoff=2).law((8, 8), None)
    >>> law.low, law.high, round(law.std, 5)
    (-0.04, 0.04, 0.01759)
    """

    mean: float = 0
    std: float = 1
    a: float = -2
    b: float = 2
    cutoff: float | None = None

    def check(self, checks: Checks) -> None:
        """Checks the moments and the bounds."""
        checks.number("mean", self.mean)
        checks.number("std", self.std, above=0)
        bounds = [checks.number(name, getattr(self, name)) for name in ("a", "b")]
        if self.cutoff is not None:
            checks.number("cutoff", self.cutoff, above=0)
            if (self.a, self.b) != (TruncNormalInit.a, TruncNormalInit.b):
                checks.fault("cutoff", "stands for the bounds `a` and `b`; give either the one or the others")
        elif all(bounds) and self.a >= self.b:
            checks.fault("a", f"must be < b, got a={self.a} and b={self.b}")

    def arguments(self) -> dict[str, object]:
        """The arguments that `describe` shows: the bounds in the way they were given."""
        hidden = () if self.cutoff is None else ("a", "b")
        return {name: value for name, value in super().arguments().items() if name not in hidden}

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:  # noqa: ARG002  # the same for every shape
        """The truncated normal law."""
        low, high = self.a, self.b
        if self.cutoff is not None:
            low, high = self.mean - self.cutoff * self.std, self.mean + self.cutoff * self.std
        return TruncNormalLaw(self.mean, self.std, low, high)
