"""The module tree as the user wrote it: names without wrappers, every distinct parameter once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from lightning_init.slot import Slot, new_slot, parameter_names, tensors_of
from lightning_init.wrappers import unwrap

__all__ = ["Node", "Tree", "slots", "walk"]

_NO_SLOTS: Mapping[str, Slot] = {}


@dataclass(frozen=True)
class _Found:
    """The slots of a tree, and by their attributes those that each module itself holds, and its parameters of these."""

    slots: tuple[Slot, ...]
    held: Mapping[Node, Mapping[str, Slot]]
    parameters: Mapping[Node, Mapping[str, Slot]]


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
        return self._found.slots

    @cached_property
    def _found(self) -> _Found:
        slots: dict[int, Slot] = {}
        held: dict[Node, dict[str, Slot]] = {}
        parameters: dict[Node, Mapping[str, Slot]] = {}
        for path, node in self.below(self.root, self.root.path):
            module = node.module
            tensors = tensors_of(module)
            if not tensors:
                continue
            start, of_node = f"{path}." if path else "", held.setdefault(node, {})
            only_parameters = tensors is module._parameters
            for attribute, tensor in tensors.items():
                if tensor is None:
                    continue
                name, known = start + attribute, id(tensor)
                slot = slots.get(known)
                if slot is None:
                    slot = slots[known] = new_slot(tensor, module, attribute, name, is_parameter=only_parameters)
                else:
                    slot.add((module, attribute), name)
                of_node[attribute] = slot
            own = of_node if only_parameters else {name: of_node[name] for name in parameter_names(module)}
            parameters[node] = own
        return _Found(tuple(slots.values()), held, parameters)

    def held(self, node: Node) -> Mapping[str, Slot]:
        """The slots that a module itself holds, by their attributes: parameters, parametrized tensors, buffers."""
        return self._found.held.get(node, _NO_SLOTS)

    def parameters(self, node: Node) -> Mapping[str, Slot]:
        """Those that are parameters of this module, whatever they are elsewhere."""
        return self._found.parameters.get(node, _NO_SLOTS)

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


def walk(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(qualified name, module) for a module and all below it, wrappers left out, shared modules once."""
    for node in Tree(module).nodes.values():
        yield node.path, node.module


def slots(module: nn.Module) -> tuple[Slot, ...]:
    """Every distinct parameter and persistent buffer at and below a module."""
    return Tree(module).slots
