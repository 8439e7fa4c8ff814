"""Whether an initializer of a user has written what no training survives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_init.errors import Fault, InitConfigError
from lightning_init.steps import Fill

__all__ = ["refuse_nan"]


def refuse_nan(claim: Fill) -> None:
    """Looks at what was filled, unless it is by one of our own initializers, whose arguments and laws are finite.

    Raises:
        InitConfigError: There is a NaN in it.
    """
    if not (claim.recipe.is_ours or claim.recipe.is_bias) and any(map(_has_nan, claim.slot.tensors)):
        raise InitConfigError([Fault(claim.source, f"{claim.what} wrote NaN into {claim.slot.name!r}")])


def _has_nan(tensor: Tensor) -> bool:
    # Of a sharded tensor, each rank looks at what it holds.
    held = getattr(tensor, "_local_tensor", tensor).detach()
    if not held.numel() or not (held.is_floating_point() or held.is_complex()):
        return False
    if held.element_size() == 1:
        held = held.float()
    # Unlike `isnan`, it needs no memory of the tensor's size.
    return bool(torch.linalg.vector_norm(held, math.inf).isnan())
