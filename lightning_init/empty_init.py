"""What ``trainer.init_module(empty_init=True)`` leaves unset on a device: made recognisable, and found.

There Lightning lets functions of ``torch.nn.init`` do nothing, so that a layer keeps whatever was in its memory, and
nothing tells it from weights. So that memory is filled with NaN in their stead, as torch fills unset memory in its
deterministic mode. Lightning's class is changed for that only while there is somebody who looks for it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import init
from torch import Tensor, nn

from lightning_init.sharding import is_sharded

__all__ = ["mark", "unset"]

_LOOKS = 8
"""How many rows are looked at. All are NaN, but for those written since, as the padding row of an embedding is."""


# A NaN of our own for each type: a buffer may hold others for good reason.
_BITS: dict[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float64: (torch.int64, 0x7FF8_1417_1417_1417),
    torch.float32: (torch.int32, 0x7FC1_1417),
    torch.bfloat16: (torch.int16, 0x7FD7),
    torch.float16: (torch.int16, 0x7F17),
}

_owners: set[int] = set()


def mark(owner: object) -> None:
    """While an object lives, what Lightning's ``empty_init`` leaves unset is NaN."""
    mode: Any = getattr(init, "_EmptyInit", None)
    if mode is None or id(owner) in _owners:
        return
    if not _owners:
        mode.__torch_function__ = _marking(mode.__torch_function__)
    _owners.add(id(owner))
    weakref.finalize(owner, _forget, mode, id(owner)).atexit = False


def _forget(mode: Any, owner: int) -> None:
    _owners.discard(owner)
    if not _owners:
        mode.__torch_function__ = mode.__torch_function__.__wrapped__


def _marking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def marking(
        self: Any, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        found = original(self, func, types, args, kwargs)
        is_skipped = self.enabled and getattr(func, "__module__", None) == "torch.nn.init"
        if is_skipped and isinstance(found, Tensor) and _can_be_nan(found):
            kind, bits = _BITS.get(found.dtype, (found.dtype, torch.nan))
            found.detach().view(kind).fill_(bits)
        return found

    return marking


def unset(module: nn.Module) -> set[tuple[nn.Module, str]]:
    """The parameters and buffers that are unset, each as the module that holds it and its name there."""
    found = set()
    for part in module.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None and _can_be_nan(tensor):
                few = _few(tensor.detach())
                if _are_ours(few) if name in part._buffers else bool(few.isnan().any()):
                    found.add((part, name))
    return found


def _can_be_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_meta and not is_sharded(tensor) and tensor.numel() > 0


def _few(tensor: Tensor) -> Tensor:
    """The first element of some rows."""
    first = tensor.reshape(1) if tensor.dim() == 0 else tensor
    while first.dim() > 1:
        first = first.select(1, 0)
    rows = torch.linspace(0, len(first) - 1, min(_LOOKS, len(first))).long()
    return first[rows.to(first.device)]


def _are_ours(few: Tensor) -> bool:
    if few.dtype not in _BITS:
        return False
    kind, bits = _BITS[few.dtype]
    return bool((few.view(kind) == bits).any())
