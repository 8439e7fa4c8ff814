"""Gives storage to modules that were built on ``meta``, and finds what would stay unset memory there and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.errors import Fault, InitConfigError
from lightning_init.gathering import gathered
from lightning_init.rng import isolated
from lightning_init.sharding import is_sharded
from lightning_init.slot import Slot, join
from lightning_init.tracking import Tracker
from lightning_init.tree import Node, Tree
from lightning_init.wrappers import class_name

__all__ = ["UNSET", "MetaPlan", "allocate", "has_meta", "materialize", "plan_meta", "reset", "valued", "with_storage"]

UNSET = (
    "has no values yet (it was built on the meta device, or with skip_default_init or init_module(empty_init=True)), "
    "and no rule and no reset_parameters would set it; give it a rule"
)
"""What is wrong with a tensor that would stay unset memory."""


@dataclass(frozen=True)
class MetaPlan:
    """What a tree with tensors on ``meta`` needs besides its rules.

    Attributes:
        resets: The modules whose ``reset_parameters`` has to run, with the attributes that no rule writes.
        unset: The names of what neither a rule nor a ``reset_parameters`` writes.
    """

    resets: Mapping[Node, Sequence[str]]
    unset: tuple[str, ...]


def plan_meta(
    tree: Tree, written: Collection[Slot], blank: AbstractSet[tuple[nn.Module, str]] = frozenset()
) -> MetaPlan:
    """Looks for what nobody writes.

    Args:
        tree: The module tree.
        written: The slots that rules and checkpoints write.
        blank: What has storage, and no values in it.
    """
    slot_of: dict[tuple[nn.Module, str], Slot] = dict(tree.slot_of)
    for slot in tree.slots:
        slot_of.update({(part.owner, part.attribute): slot for part in slot.parts.values()})
    resets = {}
    unset = []
    for node in tree.nodes.values():
        lacking = [
            name for name in _without_values(node.module, blank) if slot_of.get((node.module, name)) not in written
        ]
        if lacking and callable(getattr(node.module, "reset_parameters", None)):
            resets[node] = lacking
        else:
            slots = [slot_of.get((node.module, name)) for name in lacking]
            unset += [slot.name if slot else join(node.path, name) for slot, name in zip(slots, lacking, strict=True)]
    return MetaPlan(resets, tuple(dict.fromkeys(unset)))


def with_storage(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, with unset memory, that can stand for one on ``meta``."""
    empty = torch.empty_like(tensor, device=device)
    if not isinstance(tensor, nn.Parameter):
        return empty
    parameter = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


def allocate(tree: Tree, device: torch.device) -> Callable[[], None]:
    """Puts every tensor that is on ``meta`` on a device, with unset memory; tied ones stay tied.

    Args:
        tree: The module tree.
        device: Where to.

    Returns:
        What puts the tensors on ``meta`` back, so that unset memory is not taken for weights after a failure.
    """
    made: dict[int, Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    for module in tree.nodes:
        for name, tensor in _on_meta(module):
            if id(tensor) not in made:
                made[id(tensor)] = with_storage(tensor, device)
            held: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            held[name] = made[id(tensor)]
            replaced.append((held, name, tensor))

    def undo() -> None:
        for held, name, tensor in replaced:
            held[name] = tensor

    return undo


def valued(tree: Tree, blank: AbstractSet[tuple[nn.Module, str]] = frozenset()) -> list[Slot]:
    """The slots that hold values already, which a `reset` must not take for unset memory.

    Args:
        tree: The module tree, before `allocate`.
        blank: As for `plan_meta`.
    """
    lacking = {(module, name) for module in tree.nodes for name in _without_values(module, blank)}
    return [
        slot
        for slot in tree.slots
        if not (slot.parts or any(map(is_sharded, slot.tensors)) or lacking.intersection(slot.places))
    ]


def reset(
    tree: Tree, node: Node, attributes: Sequence[str], seed: int, spare: Collection[Slot] = ()
) -> tuple[list[str], list[str]]:
    """Runs a module's ``reset_parameters``.

    Args:
        tree: The module tree.
        node: The module.
        attributes: Those that it has to set.
        seed: The seed of the initialisation.
        spare: What it may not write; it is put back.

    Returns:
        The names of what it wrote, and of those attributes that it left unset.
    """
    kept = {
        slot.name: [(tensor, tensor.detach().clone()) for tensor in slot.tensors]
        for slot in tree.part(node)
        if slot in spare
    }
    slot_of = {name: tree.slot_of.get((node.module, name)) for name in attributes}
    names = {name: slot.name if slot else join(node.path, name) for name, slot in slot_of.items()}

    def snapshot() -> dict[str, Sequence[Tensor]]:
        own = {names[name]: (getattr(node.module, name),) for name in attributes}
        return own | {slot.name: slot.tensors for slot in tree.covered(node)}

    stage = f"{class_name(node.module)}.reset_parameters"
    devices = {getattr(node.module, name).device for name in attributes}
    with gathered(node.module, stage), isolated(seed, node.path, devices), Tracker(snapshot) as tracker:
        node.module.reset_parameters()  # type: ignore[operator]  # plan_meta has looked at it
        written = [name for name in tracker.take() if name not in kept]
    with torch.no_grad():
        for tensor, values in chain.from_iterable(kept.values()):
            tensor.copy_(values)
    return written, [name for name in names.values() if name not in written]


def materialize(tree: Tree, device: torch.device, blank: AbstractSet[tuple[nn.Module, str]] = frozenset()) -> None:
    """Gives storage to a tree whose parameters and persistent buffers a restore will set; the rest is reset.

    Args:
        tree: The module tree; nothing happens if it has nothing on ``meta``.
        device: Where to.
        blank: What has storage, and no values in it.

    Raises:
        InitConfigError: A buffer that no checkpoint holds has no ``reset_parameters`` either.
    """
    plan = plan_meta(tree, tree.slots, blank)
    if plan.unset:
        raise InitConfigError([Fault(name, UNSET) for name in plan.unset])
    allocate(tree, device)
    for node, attributes in plan.resets.items():
        _, unset = reset(tree, node, attributes, 0)
        if unset:
            raise InitConfigError([Fault(name, UNSET) for name in unset])


def has_meta(tree: Tree) -> bool:
    """Something in a tree has no storage."""
    return any(_on_meta(module) for module in tree.nodes)


def _without_values(module: nn.Module, blank: AbstractSet[tuple[nn.Module, str]]) -> list[str]:
    on_meta = {name for name, _ in _on_meta(module)}
    return [name for name in (*module._parameters, *module._buffers) if name in on_meta or (module, name) in blank]


def _on_meta(module: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in tensors.items() if tensor is not None and tensor.is_meta]
