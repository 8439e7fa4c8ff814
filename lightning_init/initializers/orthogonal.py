"""Weights whose rows or columns are orthogonal to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_init.errors import InitConfigError
from lightning_init.initializers.base import INITIALIZERS, TensorInitializer
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.formulas import Fans

__all__ = ["OrthogonalInit"]

_TALL = 8
"""From this ratio of rows to columns on, CholeskyQR2 takes 0.5 to 0.9 of the time of Householder reflections.

Normal matrices of that shape have condition numbers around 2; up to thousands it is exact to round-off.
"""


@INITIALIZERS.register
@dataclass(frozen=True)
class OrthogonalInit(TensorInitializer):
    """Draws a weight uniformly from all with orthogonal rows (or columns, if there are fewer) of the length ``gain``.

    A weight of shape (out, in, k...) is taken as the matrix of shape (out, in * k...). It is the factor Q of a matrix
    of normal numbers whose factor R has a positive diagonal, which makes it uniform (F. Mezzadri, "How to generate
    random matrices from the classical compact groups", 2007). Very tall matrices are factorised by CholeskyQR2
    (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm", 2015), which needs products of matrices
    only, the others by Householder reflections; both are orthogonal to round-off. Half precision is computed in float32
    and rounded.

    Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014.

    Args:
        gain: The length of the rows or columns, not negative.
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules to write to.

    >>> linear = torch.nn.Linear(3, 2)
    >>> OrthogonalInit(gain=2, layer="Linear")(linear)
    >>> torch.allclose(linear.weight @ linear.weight.T, 4 * torch.eye(2), atol=1e-5)
    True
    """

    gain: float = 1

    concurrent: ClassVar[bool] = True

    def check(self, checks: Checks) -> None:
        """Checks the gain."""
        checks.number("gain", self.gain, at_least=0)

    def expected(self, shape: Sequence[int]) -> None:
        """No law: the numbers depend on each other.

        Raises:
            InitConfigError: The weight is no matrix.
        """
        if len(shape) < 2:
            raise InitConfigError(
                f"rows that are orthogonal need at least two dimensions, and its shape is {tuple(shape)}; name in "
                f"`layer` only classes whose weight is a matrix or a kernel"
            )

    def fill(self, tensor: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:  # noqa: ARG002  # no fans
        """Fills a weight in place."""
        rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
        if not tensor.numel():
            return
        normal = tensor.new_empty(max(rows, columns), min(rows, columns)).normal_(generator=generator)
        factor = _orthogonal(normal)
        tensor.view(rows, columns).copy_(factor if rows >= columns else factor.T).mul_(self.gain)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The factor Q of a matrix with at least as many rows as columns, R having a positive diagonal."""
    if matrix.shape[0] < _TALL * matrix.shape[1]:
        q, r = torch.linalg.qr(matrix)
        signed: Tensor = q.mul_(torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype))
        return signed
    # The first pass leaves an error of the square of the condition number, the second one of round-off.
    for _ in range(2):
        r = torch.linalg.cholesky(matrix.T @ matrix, upper=True)
        identity = torch.eye(len(r), dtype=r.dtype, device=r.device)
        matrix = matrix @ torch.linalg.solve_triangular(r, identity, upper=True)
    return matrix
