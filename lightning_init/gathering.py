"""Whole tensors in place of those that are spread over ranks, and back, for code that knows only one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_init import distributed
from lightning_init.errors import InitError
from lightning_init.sharding import copy_, described, is_sharded, whole
from lightning_init.wrappers import every_module, of_classes

__all__ = ["gathered", "joined", "reshard"]

T = TypeVar("T")


def reshard(modules: Collection[nn.Module]) -> None:
    """Lets FSDP2 put its shares back into modules.

    Behind a forward pass the outermost one of its modules holds whole weights still. What is written to them is lost.
    """
    if not dist.is_available():
        return
    from torch.distributed.fsdp import FSDPModule  # noqa: PLC0415  # not in every build of torch

    for part in of_classes(modules, lambda cls: issubclass(cls, FSDPModule)):
        part.reshard()  # type: ignore[operator]  # a method of that class


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
    put_together: dict[int, Tensor] = {}
    try:
        for held, name, tensor in spread:
            if id(tensor) not in put_together:
                put_together[id(tensor)] = _whole(tensor)
            held[name] = put_together[id(tensor)]
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
    for part in every_module(module):
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None and is_sharded(tensor):
                    yield held, name, tensor


def _whole(tensor: Any) -> Tensor:
    found = whole(tensor)
    if not isinstance(tensor, nn.Parameter):
        return found
    parameter = nn.Parameter(found, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


def joined(
    stage: str, tensors: Mapping[str, Tensor], found: Mapping[str, T], join: Callable[[T, T], T]
) -> dict[str, T]:
    """Joins what each rank found in its share of tensors; of replicas one counts.

    With one that is spread over ranks among them, every rank has to call this, with the same names.

    Args:
        stage: What is done, for messages.
        tensors: The tensors by name.
        found: What this rank found in what it holds of each.
        join: Joins what two shares gave.

    Returns:
        The same on every rank; what was found in whole tensors stays as it is.
    """
    mine = {name: (described(tensor), found[name]) for name, tensor in tensors.items() if is_sharded(tensor)}
    if not mine:
        return dict(found)
    every = distributed.from_all(stage, mine)
    joined_up = dict(found)
    for name in mine:
        # In the order of shares, so that all ranks get the same sums.
        parts = {held: part for of_rank in every for held, part in [of_rank[name]]}
        joined_up[name] = reduce(join, (parts[held] for held in sorted(parts)))
    return joined_up
