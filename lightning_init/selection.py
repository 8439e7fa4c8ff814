"""What a rule means in the tree below the module that carries it, and why it means nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lightning_init.checkpoint.matching.target import Target
from lightning_init.checkpoint.slots import target
from lightning_init.errors import Fault, did_you_mean
from lightning_init.outline import Outline
from lightning_init.rules import Rule
from lightning_init.scope import NamePattern, Scope, is_class
from lightning_init.slot import Slot, join, parameter_names
from lightning_init.tree import Node, Tree
from lightning_init.wrappers import class_name

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Resolves scopes relative to a module.

    Attributes:
        tree: The module tree.
        carrier: The module that paths are relative to.
    """

    tree: Tree
    carrier: Node

    @cached_property
    def outline(self) -> Outline:
        """What is below the carrier."""
        return Outline(self.tree, self.carrier)

    @cached_property
    def label(self) -> str:
        """The name of the carrier, for messages."""
        return join(class_name(self.tree.root.module), self.carrier.path)

    def parameters(self, scope: Scope) -> dict[Slot, str]:
        """The parameters of a scope with their own names, by default those called ``weight`` and ``bias``."""
        return self.outline.parameters(scope) if scope else {}

    def protected(self, scope: Scope) -> tuple[set[Node], list[Slot]]:
        """What a `Keep` rule covers: all at and below the modules it means, or their ``params``, or a parameter.

        Returns:
            The modules that are covered as a whole, and all slots that are covered.
        """
        nodes: set[Node] = set()
        found: dict[Slot, None] = {}
        for top in self.modules(scope) if scope else ():
            for _, node in self.tree.below(top):
                if not scope.params:
                    nodes.add(node)
                for name, slot in self.tree.held(node).items():
                    if not scope.params or scope.takes(name, ()):
                        found.setdefault(slot)
        for slot, name in self.outline.parameters(scope).items() if scope.name else ():
            if scope.takes(name, ()):
                found.setdefault(slot)
        return nodes, list(found)

    def modules(self, scope: Scope) -> list[Node]:
        """The modules that a scope means, without those below them."""
        found: dict[Node, None] = {}

        end = 0
        for position in self._covered(scope):
            node = self.outline.places[position][1]
            if position >= end and scope.has_layer(node.module):
                found.setdefault(node)
                end = self.outline.ends[position]
        return list(found)

    def _covered(self, scope: Scope) -> Iterator[int]:
        """Where the modules are that the name of a scope covers."""
        if scope.covers(""):
            yield 0
        tops = self.outline.tops(scope.name) if scope.name else (0,)
        for top in tops:
            yield from range(top, self.outline.ends[top])

    def targets(
        self, scope: Scope, spared: Collection[Slot] = ()
    ) -> tuple[list[Target], dict[str, tuple[Slot, str | None]]]:
        """What a checkpoint may fill, and the slot (or part of one) behind every name.

        Args:
            scope: What the rule is about.
            spared: What something else decides about in the end.

        Returns:
            All targets below the carrier, those out of scope marked; and their slots.
        """
        inside: dict[Slot, list[str]] = {}
        names: dict[Slot, list[str]] = {}
        for path, node in self.outline.places:
            has_layer = scope.has_layer(node.module)
            for attribute, slot in self.tree.held(node).items():
                name = join(path, attribute)
                names.setdefault(slot, []).append(name)
                if has_layer and scope.covers(name) and scope.takes(attribute, (attribute,)):
                    inside.setdefault(slot, []).append(name)
        targets = [
            replace(_target(slot, inside.get(slot, every)), in_scope=slot in inside, is_spared=slot in spared)
            for slot, every in names.items()
        ]
        slots: dict[str, tuple[Slot, str | None]] = {}
        for slot, found in zip(names, targets, strict=True):
            slots[found.name] = (slot, None)
            slots.update({part.name: (slot, name) for part, name in zip(found.parts, slot.parts, strict=True)})
        return targets, slots

    def resolved(self, rule: Rule) -> tuple[Rule, list[Fault]]:
        """An override with a name that exists; an attribute that leads to a module of the tree (a property) counts."""
        pattern = rule.scope.name
        if not rule.is_override or pattern is None or self.outline.covers_any(pattern):
            return rule, []
        target: Any = self.carrier.module
        for part in pattern.text.split("."):
            target = getattr(target, part, None)
        for path, node in self.outline.places:
            if node.module is target and path:
                return replace(rule, scope=replace(rule.scope, name=NamePattern(path))), []
        known = [path for path in self.names() if path.count(".") <= pattern.text.count(".")]
        told = f"{self.label} has no {pattern.text!r}; {did_you_mean(pattern.text, known)}"
        return rule, [Fault(f"{rule.where}.name", told)]

    def names(self) -> Iterator[str]:
        """The relative paths of all modules and parameters below the carrier."""
        for position, (path, _) in enumerate(self.outline.places):
            if path:
                yield path
            for name in self.outline.names_at(position):
                yield join(path, name)

    def why_nothing(self, scope: Scope) -> str:
        """Why a scope covers no parameter; empty where `unknown_layers` tells it, name by name."""
        if not scope:
            return "has no layer, name, params or override, so it matches nothing"
        given = {"layer": scope.layer, "name": scope.name and scope.name.text, "params": scope.params}
        told = ", ".join(f"{key}={_shown(value)}" for key, value in given.items() if value)
        told = f"{told} matches nothing in {self.label}"
        if scope.name is not None and not self.outline.covers_any(scope.name):
            return f"{told}; {did_you_mean(scope.name.text, self.names())}"
        modules = [node.module for path, node in self.outline.places if scope.covers(path)]
        modules = [module for module in modules if scope.has_layer(module)]
        if modules and scope.params:
            attributes = {name for module in modules for name in parameter_names(module)}
            return f"{told}; {did_you_mean(scope.params[0], attributes)}"
        if modules:
            return f"{told} that has a weight or a bias; name what it has with `params`"
        if scope.name is None:
            return ""
        return told if scope.layer else f"{told} but single parameters; name these with `params`"

    def unknown_layers(self, rule: Rule) -> Iterator[Fault]:
        """The names in ``layer`` that no module has."""
        for layer in rule.scope.layer:
            if not any(is_class(cls, layer) for cls in self.outline.classes):
                known = {cls.__name__ for cls in self.outline.classes}
                name = layer if isinstance(layer, str) else layer.__name__
                told = f"{self.label} has no {name!r}; {did_you_mean(name.rpartition('.')[2], known)}"
                yield Fault(f"{rule.where}.layer", told)

    def undone_by_hooks(self, rule: Rule) -> Iterator[tuple[Slot, Fault]]:
        """The weights that hooks of old compute anew before every forward, which would undo what is written to them."""
        for position, hooked in self.outline.hooked if rule.scope and not rule.scope.params else ():
            path, node = self.outline.places[position]
            if rule.scope.has_layer(node.module) and rule.scope.covers(join(path, "weight")):
                told = (
                    f"{join(node.path, 'weight')!r} is computed from {hooked!r} by an old hook; use "
                    f"torch.nn.utils.parametrizations, or name it: params={hooked!r}"
                )
                yield self.tree.slot_of[node.module, hooked], Fault(rule.where, told)


def _target(slot: Slot, names: Sequence[str]) -> Target:
    """A slot as what a checkpoint may fill, by its names relative to the module that is loaded into."""
    stem = names[0].removesuffix(slot.places[0][1])
    parts = [f"{stem}parametrizations.{name.partition('parametrizations.')[2]}" for name in slot.parts]
    return target(slot, names, parts)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        items = [item.__name__ if isinstance(item, type) else item for item in value]
        return repr(items[0]) if len(items) == 1 else repr(items)
    return repr(value)
