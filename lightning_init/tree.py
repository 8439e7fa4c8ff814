"""The module tree as the user wrote it: names without wrappers, every distinct parameter once.

A *slot* is one place that holds numbers: a parameter or a persistent buffer, with all the names that lead to it. A
parametrized tensor (``torch.nn.utils.parametrize``) is one slot under its plain name; the tensors it is computed from
are the slot's *parts*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init.once import once
from lightning_init.parametrized import computed, original, parametrizations
from lightning_init.wrappers import unwrap

__all__ = ["Node", "Part", "Slot", "Tree", "join", "parameter", "parameter_names", "slots", "walk"]


_Place: TypeAlias = tuple[nn.Module, str]

_NO_PARTS: Mapping[str, Part] = {}
_NO_SLOTS: Mapping[str, Slot] = {}


def join(*parts: str) -> str:
    """A qualified name from parts of which some may be empty.

    >>> join("", "backbone", "conv")
    'backbone.conv'
    """
    return ".".join(filter(None, parts))


@dataclass(frozen=True)
class Part:
    """One tensor that a parametrized tensor is computed from (``parametrizations.weight.original0``)."""

    owner: ParametrizationList
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """The live tensor."""
        tensor: Tensor = getattr(self.owner, self.attribute)
        return tensor


# Not frozen, since that would treble what it costs to make one; nothing changes it once its tree is there.
@dataclass(eq=False)
class Slot:
    """A distinct parameter or persistent buffer.

    Attributes:
        places: Every (module, attribute) that holds it; tied parameters have several.
        names: The qualified names of these places, in the order of registration.
        is_buffer: It is a persistent buffer.
        parts: For a parametrized tensor, the tensors it is computed from, by their qualified names.
    """

    places: tuple[_Place, ...]
    names: tuple[str, ...]
    is_buffer: bool
    parts: Mapping[str, Part]

    def add(self, place: _Place, name: str) -> None:
        """Another place holds it: a tied parameter, or one of a shared module, which is come by more than once."""
        self.places = self.places if place in self.places else (*self.places, place)
        self.names = self.names if name in self.names else (*self.names, name)

    @property
    def name(self) -> str:
        """The name under which it was registered first."""
        return self.names[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names."""
        return self.names[1:]

    @property
    def key(self) -> str:
        """The name of its random stream: the smallest one, so that the order of registration does not count."""
        return min(self.names)

    @property
    def tensor(self) -> Tensor:
        """The live tensor; for a parametrized one the value that its parts make."""
        module, attribute = self.places[0]
        if self.parts:
            return computed(module, attribute)
        held: Tensor | None = module._parameters.get(attribute)
        return parameter(module, attribute) if held is None else held

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The live tensors that hold the numbers: itself, or its parts."""
        return tuple(part.tensor for part in self.parts.values()) if self.parts else (self.tensor,)

    @property
    def is_trainable(self) -> bool:
        """It wants a gradient, or a part of it does."""
        return any(tensor.requires_grad for tensor in self.tensors)

    @property
    def is_lazy(self) -> bool:
        """It has no shape yet."""
        return any(map(is_lazy, self.tensors))

    @property
    def is_meta(self) -> bool:
        """It has a shape and no storage."""
        return any(tensor.is_meta for tensor in self.tensors)

    @once
    def shape(self) -> tuple[int, ...]:
        """Its shape; empty while it is lazy."""
        tensors = self.tensors
        if any(map(is_lazy, tensors)):
            return ()
        return tuple((self.tensor if self.parts else tensors[0]).shape)

    @once
    def dtype(self) -> torch.dtype:
        """The type of its elements."""
        return self.tensors[0].dtype


@dataclass(eq=False)
class Node:
    """A distinct module.

    Attributes:
        module: The module, out of its wrappers.
        path: Its qualified name; empty for the root.
        children: Its children by the name they are registered under; a shared module is the same node everywhere.
    """

    module: nn.Module
    path: str
    children: dict[str, Node]


class Tree:
    """The modules and slots below a module.

    Args:
        root: Where to start; a wrapper is seen through.
        path: The name of ``root`` itself, when it is a part of something larger.
    """

    def __init__(self, root: nn.Module, path: str = "") -> None:
        # In the order of registration.
        self._known: dict[int, Node] = {}
        self._has_shared = False
        self.root = self._grow(unwrap(root), path)

    def _grow(self, module: nn.Module, path: str) -> Node:
        children: dict[str, Node] = {}
        node = self._known[id(module)] = Node(module, path, children)
        start = f"{path}." if path else ""
        for name, child in module._modules.items():
            if child is None:
                continue
            inner = unwrap(child)
            known = self._known.get(id(inner))
            if known is None:
                known = self._grow(inner, start + name)
            else:
                self._has_shared = True
            children[name] = known
        return node

    @cached_property
    def nodes(self) -> dict[nn.Module, Node]:
        """Every distinct module, in the order of registration."""
        return {node.module: node for node in self._known.values()}

    def below(self, node: Node, path: str = "") -> Sequence[tuple[str, Node]]:
        """(relative path, node) for a node and all below it, once for every path that leads there."""
        if node is self.root and path == node.path and not self._has_shared:
            # The case of most: every module is at one place.
            return [(each.path, each) for each in self._known.values()]
        found: list[tuple[str, Node]] = []
        waiting = [(path, node, frozenset[int]())]
        while waiting:
            path, node, above = waiting.pop()
            found.append((path, node))
            if node.children:
                above |= {id(node)}
                start = f"{path}." if path else ""
                inner = [
                    (start + name, child, above) for name, child in node.children.items() if id(child) not in above
                ]
                waiting += reversed(inner)
        return found

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every distinct parameter and persistent buffer, in the order of registration."""
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[tuple[Slot, ...], dict[Node, dict[str, Slot]]]:
        """The slots, and by their attributes those that each module itself holds."""
        slots: dict[int, Slot] = {}
        held: dict[Node, dict[str, Slot]] = {}
        for path, node in self.below(self.root, self.root.path):
            module = node.module
            tensors = _tensors(module)
            if not tensors:
                continue
            has_others = tensors is not module._parameters
            start, of_node = f"{path}." if path else "", held.setdefault(node, {})
            for attribute, tensor in tensors.items():
                if tensor is None:
                    continue
                known = id(tensor)
                slot = slots.get(known)
                if slot is None:
                    place, name = (module, attribute), start + attribute
                    if has_others:
                        slot = _slot(tensor, place, name)
                    else:
                        slot = Slot((place,), (name,), is_buffer=False, parts=_NO_PARTS)
                    if not (slot.parts or is_lazy(tensor)):
                        # They will be asked for, and the tensor is at hand. `once` gives way to what an instance has.
                        slot.shape, slot.dtype = tuple(tensor.shape), tensor.dtype
                    slots[known] = slot
                else:
                    slot.add((module, attribute), start + attribute)
                of_node[attribute] = slot
        return tuple(slots.values()), held

    def held(self, node: Node) -> Mapping[str, Slot]:
        """The slots that a module itself holds, by their attributes, parameters first."""
        return self._found[1].get(node, _NO_SLOTS)

    def part(self, node: Node) -> tuple[Slot, ...]:
        """The slots at and below a module, in the order of registration."""
        found = (slot for _, below in self.below(node) for slot in self.held(below).values())
        return tuple(dict.fromkeys(found))

    def covered(self, node: Node) -> frozenset[Slot]:
        """The slots at and below a module."""
        return frozenset(self.part(node))

    @cached_property
    def slot_of(self) -> dict[tuple[nn.Module, str], Slot]:
        """The slot that a module holds under an attribute."""
        return {place: slot for slot in self.slots for place in slot.places}


def _tensors(module: nn.Module) -> Mapping[str, Tensor | None]:
    """The tensors that identify the slots of a module itself, by their attributes; nearly always its parameters."""
    modules, buffers = module._modules, module._buffers
    if isinstance(module, ParametrizationList):
        # Its originals are parts of the parametrized slot; a buffer stands only where the original was one.
        return {}
    if not buffers and "parametrizations" not in modules:
        return module._parameters
    originals = {name: original(plist) for name, plist in parametrizations(module).items()}
    persistent = {name: held for name, held in buffers.items() if name not in module._non_persistent_buffers_set}
    return {**module._parameters, **originals, **persistent}


def _is_buffer(module: nn.Module, attribute: str, tensor: Tensor) -> bool:
    if attribute in module._buffers:
        return True
    return attribute not in module._parameters and not isinstance(tensor, nn.Parameter)


def _slot(tensor: Tensor, place: _Place, name: str) -> Slot:
    """The slot of a module that holds more than parameters."""
    module, attribute = place
    plist = parametrizations(module).get(attribute)
    parts = _NO_PARTS if plist is None else _parts(plist, attribute, name)
    return Slot((place,), (name,), _is_buffer(module, attribute, tensor), parts)


def _parts(plist: ParametrizationList, attribute: str, name: str) -> dict[str, Part]:
    path = join(name.removesuffix(attribute).rstrip("."), "parametrizations", attribute)
    originals = ["original"] if plist.is_tensor else [f"original{i}" for i in range(plist.ntensors)]
    return {join(path, original): Part(plist, original) for original in originals}


def walk(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(qualified name, module) for a module and all below it, wrappers left out, shared modules once."""
    for node in Tree(module).nodes.values():
        yield node.path, node.module


def slots(module: nn.Module) -> tuple[Slot, ...]:
    """Every distinct parameter and persistent buffer at and below a module."""
    return Tree(module).slots


def parameter_names(module: nn.Module) -> list[str]:
    """The attributes of a module itself that hold a parameter, a parametrized one by its plain name."""
    if "parametrizations" in module._modules or isinstance(module, ParametrizationList):
        held = _tensors(module).items()
        return [name for name, tensor in held if tensor is not None and not _is_buffer(module, name, tensor)]
    return [name for name, held in module._parameters.items() if held is not None]


def parameter(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name, as it is now."""
    if name in parametrizations(module):
        return computed(module, name)
    tensor: Tensor | None = module._parameters.get(name)
    if tensor is None:
        tensor = module._buffers[name]
    if tensor is None:
        raise AttributeError(name)
    return tensor
