"""What is remarkable about the start of a model, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["CODES", "SEVERITIES", "Code", "Finding", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "info"]
Code: TypeAlias = Literal[
    "nonfinite",
    "symmetric",
    "off-expected",
    "random-scale",
    "untouched",
    "frozen-random",
    "low-coverage",
    "overwritten",
    "ranks-differ",
    "dead-signal",
    "vanishing-signal",
    "exploding-signal",
    "probe-failed",
]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From the worst to the mildest. An error: the model cannot train as it is. A warning: probably not meant."""

CODES: dict[Code, str] = {
    "nonfinite": "NaN or infinity among the weights",
    "symmetric": "a weight matrix that is all one value",
    "off-expected": "measured statistics that the declared law does not explain",
    "random-scale": "the scale of a normalisation layer drawn at random",
    "untouched": "a parameter that nothing wrote",
    "frozen-random": "a parameter without a gradient that a random rule wrote",
    "low-coverage": "a checkpoint that filled little of what its rule covers",
    "overwritten": "weights of a checkpoint or of another library, written over",
    "ranks-differ": "ranks that hold different values",
    "dead-signal": "a layer most of whose units answer zero to everything",
    "vanishing-signal": "activations or gradients that shrink from layer to layer",
    "exploding-signal": "activations or gradients that grow from layer to layer",
    "probe-failed": "the signal could not be probed",
}
"""What each code stands for; the codes are stable."""


@dataclass(frozen=True)
class Finding:
    """One remark.

    Attributes:
        severity: How bad it is.
        code: What kind of remark it is; see `CODES`.
        where: The parameter or layer, or the place of a rule; empty for the model as a whole.
        message: What was found, in one sentence with its numbers.
        remedy: What to do about it, in one sentence.
        source: The line of the config to blame, if there is one.
    """

    severity: Severity
    code: Code
    where: str
    message: str
    remedy: str
    source: str | None = None

    def __str__(self) -> str:
        place = ": ".join(filter(None, [self.severity, self.where]))
        declared = f" [{self.source}]" if self.source and self.source != self.where else ""
        return f"{place}: {self.message}{declared}; {self.remedy}"
