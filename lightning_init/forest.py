"""The tree of an initialisation as it grows: methods that run may make new modules, inside of it and apart from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from lightning_init.tree import Tree
from lightning_init.wrappers import class_name

__all__ = ["Forest", "held"]


@dataclass
class Forest:
    """The tree of the root, and those of modules that are no part of it.

    Attributes:
        tree: The tree of the root, which gives the names.
        has_changed: Foreign code has run since, which may have changed modules.
    """

    tree: Tree
    has_changed: bool = False
    _apart: dict[nn.Module, str] = field(default_factory=dict)

    @property
    def root(self) -> nn.Module:
        """The outermost module."""
        return self.tree.root.module

    def now(self) -> Tree:
        """The tree of the root as it is now."""
        return Tree(self.root) if self.has_changed else self.tree

    def with_(self, module: nn.Module) -> Tree:
        """A tree that knows a module as it is now."""
        if module not in self._apart and not _is_known(self.tree, module):
            self.tree = Tree(self.root)
            if module not in self.tree.nodes:
                # Not a part of what is initialised: a name that no attribute can have, one for each.
                self._apart[module] = f"({class_name(module)} {len(self._apart)})"
        return Tree(module, self._apart[module]) if module in self._apart else self.tree


def held(module: nn.Module) -> frozenset[tuple[nn.Module, str]]:
    """What a module and all below it hold now."""
    return frozenset(Tree(module).slot_of)


def _is_known(tree: Tree, module: nn.Module) -> bool:
    """Whether a tree still tells what a module below it holds: the same attributes, shapes and ties."""
    node = tree.nodes.get(module)
    if node is None:
        return False
    now = Tree(module, node.path)
    known = {place: slot for slot in tree.part(node) for place in slot.places if place[0] in now.nodes}
    return known.keys() == now.slot_of.keys() and all(
        known[place].shape == slot.shape and {p for p in known[place].places if p[0] in now.nodes} == set(slot.places)
        for place, slot in now.slot_of.items()
    )
