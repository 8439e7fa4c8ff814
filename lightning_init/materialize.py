"""Gives storage to modules that were built on ``meta``, and finds what would stay unset memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.tree import Node, Slot, Tree, join

__all__ = ["MetaPlan", "allocate", "plan_meta"]


@dataclass(frozen=True)
class MetaPlan:
    """What a tree with tensors on ``meta`` needs besides its rules.

    Attributes:
        resets: The modules whose ``reset_parameters`` has to run, because they hold something that no rule writes.
        unset: The names of what neither a rule nor a ``reset_parameters`` writes.
    """

    resets: tuple[Node, ...]
    unset: tuple[str, ...]


def plan_meta(tree: Tree, written: Collection[Slot]) -> MetaPlan:
    """Looks for what nobody writes.

    Args:
        tree: The module tree.
        written: The slots that rules and checkpoints write.
    """
    resets = []
    unset = []
    for node in tree.nodes.values():
        held = {name: tree.slot_of.get((node.module, name)) for name, _ in _on_meta(node.module)}
        lacking = [name for name, slot in held.items() if slot is None or slot not in written]
        if lacking and callable(getattr(node.module, "reset_parameters", None)):
            resets.append(node)
        else:
            unset += [join(node.path, name) for name in lacking]
    return MetaPlan(tuple(resets), tuple(unset))


def allocate(tree: Tree, device: torch.device) -> None:
    """Puts every tensor that is on ``meta`` on a device, with unset memory; tied ones stay tied.

    Args:
        tree: The module tree.
        device: Where to.
    """
    made: dict[int, Tensor] = {}
    for module in tree.nodes:
        for name, tensor in _on_meta(module):
            if id(tensor) not in made:
                empty = torch.empty_like(tensor, device=device)
                if isinstance(tensor, nn.Parameter):
                    parameter = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                    parameter.__dict__.update(tensor.__dict__)
                    empty = parameter
                made[id(tensor)] = empty
            held: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            held[name] = made[id(tensor)]


def _on_meta(module: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in tensors.items() if tensor is not None and tensor.is_meta]
