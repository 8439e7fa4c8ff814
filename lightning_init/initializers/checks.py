"""Checks of an initializer's arguments that collect every fault instead of stopping at the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from lightning_init.errors import Fault, InitConfigError, did_you_mean

__all__ = ["Checks"]


class Checks:
    """A list of faults under construction.

    >>> checks = Checks()
    >>> checks.number("std", -1, at_least=0), checks.choice("mode", "fanin", ["fan_in", "fan_out"])
    (False, False)
    >>> for fault in checks.faults:
    ...     print(fault)
    std: must be >= 0, got -1
    mode: must be one of 'fan_in', 'fan_out', got 'fanin'; did you mean 'fan_in'?
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def number(self, where: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf) -> bool:
        """Whether a value is a finite real number, no bool, within bounds.

        Args:
            where: The name of the argument.
            value: What was given for it; a scalar of NumPy is a number as well.
            at_least: The smallest value allowed.
            above: What it must be greater than.
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            return self.fault(where, f"must be a number, got {value!r} ({type(value).__name__})")
        if not _is_finite(value):
            return self.fault(where, f"must be a finite number, got {value}")
        if float(value) < at_least:
            return self.fault(where, f"must be >= {at_least:g}, got {value}")
        if float(value) <= above:
            return self.fault(where, f"must be > {above:g}, got {value}")
        return True

    def probability(self, where: str, value: Any) -> bool:
        """Whether a value is a float strictly between 0 and 1."""
        if isinstance(value, Integral) or not isinstance(value, Real):
            return self.fault(where, f"must be a float between 0 and 1, got {value!r} ({type(value).__name__})")
        return 0 < float(value) < 1 or self.fault(where, f"must lie between 0 and 1, both excluded, got {value}")

    def choice(self, where: str, value: Any, options: Sequence[str]) -> bool:
        """Whether a value is one of some strings."""
        if isinstance(value, str) and value in options:
            return True
        near = did_you_mean(value, options) if isinstance(value, str) else ""
        hint = f"; {near}" if near.startswith("did") else ""
        return self.fault(where, f"must be one of {', '.join(map(repr, options))}, got {value!r}{hint}")

    def fault(self, where: str, what: str) -> bool:
        """Adds a fault; returns False, for use as the result of a check."""
        self.faults.append(Fault(where, what))
        return False

    def close(self) -> None:
        """Ends the checks.

        Raises:
            InitConfigError: With all faults, if there are any.
        """
        if self.faults:
            raise InitConfigError(self.faults)


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
