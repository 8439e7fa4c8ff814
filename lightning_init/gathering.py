"""Whole tensors in place of those that are spread over ranks, for code that knows only whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init import distributed
from lightning_init.errors import InitError
from lightning_init.sharding import copy_, is_sharded

__all__ = ["gathered"]


@contextmanager
def gathered(module: nn.Module, stage: str) -> Iterator[None]:
    """Lets code see and write the whole parameters and buffers of a module; afterwards every rank keeps its share.

    All ranks do this at the same time. The whole module is in the memory of each of them meanwhile. After an exception
    nothing that was written counts.

    Args:
        module: The module, with all below it; nothing happens if nothing of it is spread over ranks.
        stage: What the code is, for messages.

    Raises:
        InitError: The code has put something of another shape in place of a parameter.
    """
    spread = list(_spread(module))
    if not spread:
        yield
        return
    # A rank that has failed before posts its error here, and nobody is left in the collectives that follow.
    distributed.together(f"gathering the weights for {stage}", lambda: None)
    whole: dict[int, Tensor] = {}
    try:
        for held, name, tensor in spread:
            if id(tensor) not in whole:
                whole[id(tensor)] = _whole(tensor)
            held[name] = whole[id(tensor)]
        yield
        found: list[tuple[str, Tensor, Any]] = [(name, tensor, held.get(name)) for held, name, tensor in spread]
    finally:
        for held, name, tensor in spread:
            held[name] = tensor
    wrong = [name for name, tensor, now in found if now is None or now.shape != tensor.shape]
    if wrong:
        raise InitError(f"{stage} has put something of another shape in place of {min(wrong)!r}, which is sharded")
    with torch.no_grad():
        for _, tensor, now in found:
            copy_(tensor, now)


def _spread(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(where it is held, its name there, the tensor) for what is spread over ranks."""
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None and is_sharded(tensor):
                    yield held, name, tensor


def _whole(tensor: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = tensor.detach().full_tensor()
    if not isinstance(tensor, nn.Parameter):
        return found
    parameter = nn.Parameter(found, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter
