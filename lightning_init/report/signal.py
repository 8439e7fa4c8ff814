"""What a batch becomes on its way through a freshly initialised model, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerSignal"]


@dataclass(frozen=True)
class LayerSignal:
    """The signal at the output of one layer, in one forward and backward pass.

    Attributes:
        name: The qualified name of the module.
        layer: Its class.
        depth: Which one it was in the order of the forward pass, from zero.
        mean: The mean of its output.
        std: The standard deviation of its output, unbiased.
        dead: Which share of its output's units (channels, features) is zero for everything in the batch.
        gradient_std: The standard deviation of the loss's gradient with respect to its output; NaN without one.
        kind: ``"weights"`` if it has parameters of its own, ``"norm"`` if it normalises, else ``"other"``.
        units: How many units its output has.
    """

    name: str
    layer: str
    depth: int
    mean: float
    std: float
    dead: float
    gradient_std: float
    kind: str = "other"
    units: int = 0
