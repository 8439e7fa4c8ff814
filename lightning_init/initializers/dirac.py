"""Convolutions that hand on what they get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_init.errors import InitConfigError
from lightning_init.initializers.base import INITIALIZERS, TensorInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans

__all__ = ["DiracInit"]


@INITIALIZERS.register
@dataclass(frozen=True)
class DiracInit(TensorInitializer):
    """Makes a convolution the identity: a one in the middle of the kernel from input i to output i, zeros elsewhere.

    As many inputs are handed on as there are outputs in a group; further outputs of a group are zero. It is torch's
    `torch.nn.init.dirac_`. Zagoruyko and Komodakis, "DiracNets: Training Very Deep Neural Networks Without
    Skip-Connections", 2017.

    Args:
        groups: The groups of the convolution; each gets an identity of its own.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> conv = torch.nn.Conv1d(2, 2, 3, padding=1)
    >>> DiracInit(layer="Conv1d")(conv)
    >>> conv(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """

    groups: int = 1

    is_random: ClassVar[bool] = False

    def check(self, checks: Checks) -> None:
        """Checks the groups."""
        if checks.number("groups", self.groups, at_least=1) and self.groups != int(self.groups):
            checks.fault("groups", f"must be a whole number, got {self.groups}")

    def expected(self, shape: Sequence[int]) -> None:
        """No law: what an element is follows from its place.

        Raises:
            InitConfigError: The weight is no kernel of a convolution, or of one with other groups.
        """
        if not 3 <= len(shape) <= 5:
            raise InitConfigError(
                f"the identity is that of a convolution with one to three dimensions, and its shape is {tuple(shape)}; "
                f"name in `layer` only such classes"
            )
        if shape[0] % self.groups:
            raise InitConfigError(f"its {shape[0]} outputs are no multiple of groups={self.groups}")

    def fill(self, tensor: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:  # noqa: ARG002  # no chance
        """Fills a weight in place."""
        tensor.zero_()
        outputs = tensor.shape[0] // int(self.groups)
        middle = tuple(size // 2 for size in tensor.shape[2:])
        for i in range(min(outputs, tensor.shape[1]) if tensor.numel() else 0):
            place: tuple[int | slice, ...] = (slice(i, None, outputs), i, *middle)
            tensor[place] = 1
