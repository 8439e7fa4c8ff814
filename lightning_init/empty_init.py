"""What ``trainer.init_module(empty_init=True)`` leaves unset on a device: made recognisable, and found.

There Lightning lets functions of ``torch.nn.init`` do nothing, so that a layer keeps whatever was in its memory, and
nothing tells it from weights. So that memory is filled with NaN in their stead, as torch fills unset memory in its
deterministic mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import init
from torch import Tensor, nn

from lightning_init.sharding import is_sharded

__all__ = ["mark", "unset"]

_LOOKS = 8
"""How many rows are looked at. All are NaN, but for those written since, as the padding row of an embedding is."""


def mark() -> None:
    """From now on, what Lightning's ``empty_init`` leaves unset is NaN."""
    mode: Any = getattr(init, "_EmptyInit", None)
    if mode is None or hasattr(mode.__torch_function__, "__wrapped__"):
        return
    original = mode.__torch_function__

    @functools.wraps(original)
    def marking(
        self: Any, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        found = original(self, func, types, args, kwargs)
        is_skipped = self.enabled and getattr(func, "__module__", None) == "torch.nn.init"
        if is_skipped and isinstance(found, Tensor) and _can_be_nan(found):
            found.detach().fill_(torch.nan)
        return found

    mode.__torch_function__ = marking


def unset(module: nn.Module) -> set[tuple[nn.Module, str]]:
    """The parameters that are unset, each as the module that holds it and its name there."""
    return {
        (part, name)
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if parameter is not None and _can_be_nan(parameter) and _has_nan(parameter.detach())
    }


def _can_be_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_meta and not is_sharded(tensor) and tensor.numel() > 0


def _has_nan(tensor: Tensor) -> bool:
    first = tensor.reshape(1) if tensor.dim() == 0 else tensor
    while first.dim() > 1:
        first = first.select(1, 0)
    rows = torch.linspace(0, len(first) - 1, min(_LOOKS, len(first))).long()
    return bool(first[rows.to(first.device)].isnan().any())
