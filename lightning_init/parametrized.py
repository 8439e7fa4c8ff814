"""Tensors that ``torch.nn.utils.parametrize`` computes from others: reading and writing them by their plain name."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init.rng import isolated

__all__ = ["assign", "computed", "obstacle", "original", "parametrizations"]


def parametrizations(module: nn.Module) -> dict[str, ParametrizationList]:
    """The parametrizations of a module by the attribute that they compute."""
    found = module._modules.get("parametrizations")
    if not isinstance(found, nn.ModuleDict):
        return {}
    return {name: plist for name, plist in found.items() if isinstance(plist, ParametrizationList)}


def original(plist: ParametrizationList) -> Tensor:
    """The tensor, or the first of those, that a parametrized one is computed from."""
    tensor: Tensor = getattr(plist, "original" if plist.is_tensor else "original0")
    return tensor


def computed(module: nn.Module, attribute: str) -> Tensor:
    """The value of a parametrized tensor, without what computing it would change.

    Spectral norm, for one, moves its vectors when it computes in training mode.
    """
    plist = parametrizations(module)[attribute]
    modes = {part: part.training for part in plist.modules()}
    plist.eval()
    try:
        with torch.no_grad():
            tensor: Tensor = plist()
            return tensor
    finally:
        for part, mode in modes.items():
            part.training = mode


def assign(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Writes a parametrized tensor through the right inverse of its parametrizations."""
    with torch.no_grad():
        parametrizations(module)[attribute].right_inverse(value)


def obstacle(module: nn.Module, attribute: str, value: Tensor | None = None) -> str | None:
    """Why a parametrized tensor cannot be written; None if it can. It is tried on a copy.

    Args:
        module: The module that holds it.
        attribute: Its plain name.
        value: What is to be written; by default what it is now.
    """
    plist = copy.deepcopy(parametrizations(module)[attribute])
    value = computed(module, attribute) if value is None else value
    kinds = ", ".join(type(part).__name__ for part in plist)
    # Some draw numbers; the user's generators are to stand where they stood.
    with isolated(0, attribute, {value.device}):
        try:
            with torch.no_grad():
                plist.right_inverse(value)
                if value.isfinite().all() and not plist().isfinite().all():
                    return f"its parametrization {kinds} makes NaN of such numbers"
        except Exception as error:  # noqa: BLE001 - a parametrization is anybody's code
            reason = str(error).partition("\n")[0]
            told = f"its parametrization {kinds} has no right inverse to write it through"
            return f"{told} ({type(error).__name__}: {reason})"
    return None
