"""From a module tree and its configs to steps, without touching a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_init.checkpoint.formats import Checkpoint
from lightning_init.checkpoint.match import Target
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.config import Rule, carried_by, read
from lightning_init.errors import Fault, InitError, did_you_mean
from lightning_init.initializers.base import WeightInitializer
from lightning_init.methods import own_method
from lightning_init.scope import NamePattern, Scope, is_layer
from lightning_init.steps import Call, Done, Fill, FillStep, Load, LoadStep, Step
from lightning_init.tree import Node, Slot, Tree, join, parameter_names

__all__ = ["Planner"]

Opener = Callable[[PretrainedInit], Checkpoint]


class Planner:
    """Makes the steps of a module, and collects what is wrong with its configs instead of stopping at the first fault.

    Args:
        tree: The module tree; names and random streams are counted from its root.
        open_checkpoint: How a checkpoint is opened.
        label: The name, in messages, of a config that is given and not a module's own.

    Attributes:
        faults: What cannot be meant.
        checkpoint_faults: What is wrong with checkpoints.
        warnings: What is probably not meant.
        notes: What the user may want to know.
        kept: The slots that a ``Keep`` rule protects, with the place of that rule.
    """

    def __init__(self, tree: Tree, open_checkpoint: Opener, label: str = "init_cfg") -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.checkpoint_faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.notes: list[str] = []
        self.kept: dict[Slot, str] = {}
        self._kept_nodes: set[Node] = set()
        self._open = open_checkpoint
        self._given_label = label
        self._opened: dict[tuple[str, tuple[Any, ...]], Checkpoint] = {}
        self._rules: dict[Node, tuple[Rule, ...]] = {}
        self._visited: set[Node] = set()

    def whole(self, node: Node, init_cfg: Any = None, *, with_method: bool = True) -> list[Step]:
        """All steps of a module and what is below it.

        Args:
            node: The module.
            init_cfg: A config in place of the module's own.
            with_method: The module's own ``init_weights`` is a step; False when it is running already.
        """
        self.read(node, init_cfg)
        return self._steps(node) if with_method else self._inner_steps(node, with_method=False)

    def alone(self, node: Node, init_cfg: Any) -> list[Step]:
        """The steps of one config on one module, in the order of its rules."""
        self._parse(node, init_cfg, self._given_label)
        self._protect(node)
        # They belong to no module: that one was initialised already does not count here.
        return [replace(step, owner=None) for rule in self._rules[node] for step in self._rule_steps(rule, node)]

    def read(self, top: Node, init_cfg: Any) -> None:
        """Reads every config first: their faults are told together, and `Keep` reaches past the order of writing."""
        seen: set[Node] = set()
        waiting = [top]
        while waiting:
            node = waiting.pop()
            if node in seen or (node is not top and is_initialised(node)):
                continue
            seen.add(node)
            replaced = node is top and init_cfg is not None
            given = init_cfg if replaced else carried_by(node.module)
            label = self._given_label if replaced else join(self._label(node), "init_cfg")
            self._parse(node, given, label)
            self._protect(node)
            waiting.extend(reversed(node.children.values()))

    def _label(self, node: Node) -> str:
        return join(type(self.tree.root.module).__name__, node.path)

    def _parse(self, node: Node, init_cfg: Any, where: str) -> None:
        self._rules[node], faults = read(init_cfg, where)
        self.faults.extend(faults)

    def _protect(self, carrier: Node) -> None:
        for rule in _with_overrides(self._rules[carrier]):
            if rule.is_keep:
                slots = self._protected(self._resolved(rule, carrier).scope, carrier)
                self.kept.update({slot: rule.where for slot in slots if slot not in self.kept})
                if not slots:
                    self._matches_nothing(rule, carrier)

    def _protected(self, scope: Scope, carrier: Node) -> list[Slot]:
        """What a `Keep` rule covers: all at and below the modules it means, or their ``params``, or a parameter."""
        if not scope:
            return []
        found: dict[Slot, None] = {}
        for top in self._matching(scope, carrier):
            for _, node in self.tree.below(top):
                if not scope.params:
                    self._kept_nodes.add(node)
                for slot in self.tree.held(node, with_buffers=True):
                    attributes = [name for module, name in slot.places if module is node.module]
                    if not scope.params or any(scope.takes(name, ()) for name in attributes):
                        found.setdefault(slot)
        for path, node in self.tree.below(carrier) if scope.name else ():
            for name in parameter_names(node.module):
                if scope.takes(name, ()) and scope.has_layer(node.module) and scope.covers(join(path, name)):
                    found.setdefault(self.tree.slot_of[node.module, name])
        return list(found)

    def _matching(self, scope: Scope, carrier: Node) -> list[Node]:
        """The modules that a scope means, without those below them."""
        found: dict[Node, None] = {}

        def descend(node: Node, path: str, above: frozenset[Node]) -> None:
            if scope.has_layer(node.module) and scope.covers(path):
                found.setdefault(node)
                return
            for name, child in node.children.items():
                if child not in above:
                    descend(child, join(path, name), above | {child})

        descend(carrier, "", frozenset({carrier}))
        return list(found)

    def _steps(self, node: Node) -> list[Step]:
        if node in self._visited or node in self._kept_nodes or is_initialised(node):
            return []
        self._visited.add(node)
        method = own_method(node.module)
        if method.replaces_steps and method.is_called:
            nested = self._inner_steps(node, with_method=False)
            return [Call(node, method.source, self.tree.covered(node), nested), Done(node)]
        return self._inner_steps(node)

    def _inner_steps(self, node: Node, *, with_method: bool = True) -> list[Step]:
        """The four steps of a module: its rules, its children, its method, its checkpoints."""
        rules = self._rules[node]
        steps: list[Step] = [step for rule in rules if not rule.is_pretrained for step in self._rule_steps(rule, node)]
        for child in node.children.values():
            steps += self._steps(child)
        method = own_method(node.module)
        if method.refused and with_method:
            self.notes.append(f"{self._label(node)}: {method.refused}")
        if with_method and method.is_called:
            steps.append(Call(node, method.source, self.tree.covered(node)))
        steps += [step for rule in rules if rule.is_pretrained for step in self._rule_steps(rule, node)]
        if rules or method.is_called or hasattr(node.module, "is_init") or node is self.tree.root:
            steps.append(Done(node))
        return steps

    def _rule_steps(self, rule: Rule, carrier: Node) -> Iterator[FillStep | LoadStep]:
        self._unknown_layers(rule, carrier)
        if isinstance(rule.initializer, PretrainedInit):
            yield from self._load_steps(rule, rule.initializer, carrier)
        elif isinstance(rule.initializer, WeightInitializer):
            yield self._fill_step(rule, rule.initializer, carrier)
        for override in rule.overrides:
            yield from self._rule_steps(override, carrier)

    def _fill_step(self, rule: Rule, initializer: WeightInitializer, carrier: Node) -> FillStep:
        claims: dict[Slot, Fill] = {}
        kept = False
        rule = self._resolved(rule, carrier)
        for path, node in self.tree.below(carrier) if rule.scope else ():
            if not rule.scope.has_layer(node.module):
                continue
            for name in parameter_names(node.module):
                if rule.scope.takes(name, ("weight", "bias")) and rule.scope.covers(join(path, name)):
                    slot = self.tree.slot_of[node.module, name]
                    is_bias = name == "bias" and not rule.bias_by_initializer
                    kept = kept or slot in self.kept
                    if slot not in self.kept:
                        claims[slot] = Fill(slot, rule.where, _what(initializer, is_bias=is_bias), initializer, is_bias)
            self._refuse_old_hooks(rule, path, node)
        if not claims and not kept and (rule.scope or not rule.overrides):
            self._matches_nothing(rule, carrier)
        return FillStep(tuple(claims.values()), carrier)

    def _resolved(self, rule: Rule, carrier: Node) -> Rule:
        """An override whose name exists; an attribute that leads to a module of the tree counts (a property, say)."""
        pattern = rule.scope.name
        if not rule.is_override or pattern is None or any(pattern.covers(name) for name in self._names_below(carrier)):
            return rule
        target: Any = carrier.module
        for part in pattern.text.split("."):
            target = getattr(target, part, None)
        for path, node in self.tree.below(carrier):
            if node.module is target and path:
                return replace(rule, scope=replace(rule.scope, name=NamePattern(path)))
        known = [path for path in self._names_below(carrier) if path.count(".") <= pattern.text.count(".")]
        self.faults.append(
            Fault(
                f"{rule.where}.name",
                f"{self._label(carrier)} has no {pattern.text!r}; {did_you_mean(pattern.text, known)}",
            )
        )
        return rule

    def _names_below(self, carrier: Node) -> Iterator[str]:
        for path, node in self.tree.below(carrier):
            if path:
                yield path
            for name in parameter_names(node.module):
                yield join(path, name)

    def _refuse_old_hooks(self, rule: Rule, path: str, node: Node) -> None:
        """The hooks of old that compute ``weight`` anew before every forward would undo what is written to it."""
        # They leave what they computed last as a plain attribute.
        is_computed = isinstance(vars(node.module).get("weight"), Tensor)
        hooked = next((name for name in ("weight_v", "weight_orig") if name in node.module._parameters), None)
        if not (is_computed and hooked) or self.tree.slot_of[node.module, hooked] in self.kept:
            return
        if not rule.scope.params and rule.scope.covers(join(path, "weight")):
            self.faults.append(
                Fault(
                    rule.where,
                    f"the weight of {join(carrier_path(node), 'weight')!r} is computed from {hooked!r} by an "
                    f"old hook; use torch.nn.utils.parametrizations, or name it: params={hooked!r}",
                )
            )

    def _matches_nothing(self, rule: Rule, carrier: Node) -> None:
        told = self._why_nothing(rule.scope, carrier)
        if told:
            self.warnings.append(Fault(rule.where, told))

    def _why_nothing(self, scope: Scope, carrier: Node) -> str:
        """Why a scope covers no parameter; empty where `_unknown_layers` tells it, name by name."""
        if not scope:
            return "has no layer, name, params or override, so it matches nothing"
        given = {"layer": scope.layer, "name": scope.name and scope.name.text, "params": scope.params}
        told = ", ".join(f"{key}={_shown(value)}" for key, value in given.items() if value)
        told = f"{told} matches nothing in {self._label(carrier)}"
        if scope.name is not None and not any(map(scope.covers, self._names_below(carrier))):
            return f"{told}; {did_you_mean(scope.name.text, self._names_below(carrier))}"
        modules = [node.module for path, node in self.tree.below(carrier) if scope.covers(path)]
        modules = [module for module in modules if scope.has_layer(module)]
        if modules and scope.params:
            attributes = {name for module in modules for name in parameter_names(module)}
            return f"{told}; {did_you_mean(scope.params[0], attributes)}"
        if modules:
            return f"{told} that has a weight or a bias; name what it has with `params`"
        if scope.name is None:
            return ""
        return told if scope.layer else f"{told} but single parameters; name these with `params`"

    def _unknown_layers(self, rule: Rule, carrier: Node) -> None:
        classes = {type(node.module): node.module for _, node in self.tree.below(carrier)}
        for layer in rule.scope.layer:
            if not any(is_layer(module, (layer,)) for module in classes.values()):
                known = {cls.__name__ for cls in classes}
                self.warnings.append(
                    Fault(
                        f"{rule.where}.layer",
                        f"{self._label(carrier)} has no {_shown((layer,))}; "
                        f"{did_you_mean(_shown((layer,)).strip(chr(39)).rpartition('.')[2], known)}",
                    )
                )

    def _load_steps(self, rule: Rule, initializer: PretrainedInit, carrier: Node) -> Iterator[LoadStep]:
        roots = [carrier]
        scope = rule.scope
        if rule.is_override:
            rule = self._resolved(rule, carrier)
            roots = self._matching(replace(rule.scope, params=()), carrier)
            scope = replace(rule.scope, name=None)
        for root in roots:
            targets, slots = self._targets(root, scope)
            try:
                checkpoint = self._checkpoint(initializer)
                matched = initializer.match(checkpoint, targets)
            except InitError as error:
                self.checkpoint_faults.extend(fault.below(rule.where) for fault in error.faults)
                return
            claims = []
            for name, key in matched.loaded.items():
                slot, part = slots[name]
                if slot not in self.kept:
                    claims.append(Load(slot, rule.where, initializer.describe(), initializer, key, part))
            yield LoadStep(tuple(claims), rule.where, matched, checkpoint, carrier)

    def _checkpoint(self, initializer: PretrainedInit) -> Checkpoint:
        key = (str(initializer.checkpoint), tuple(initializer.safe_globals))
        if key not in self._opened:
            self._opened[key] = self._open(initializer)
        return self._opened[key]

    def _targets(self, root: Node, scope: Scope) -> tuple[list[Target], dict[str, tuple[Slot, str | None]]]:
        """What a checkpoint may fill below a module, and the slot (or part of one) behind every name."""
        names: dict[Slot, list[str]] = {}
        for path, node in self.tree.below(root):
            if not scope.has_layer(node.module):
                continue
            for slot in self.tree.held(node, with_buffers=True):
                for module, attribute in slot.places:
                    name = join(path, attribute)
                    if module is node.module and scope.covers(name) and scope.takes(attribute, (attribute,)):
                        names.setdefault(slot, []).append(name)
        targets = [_target(slot, found) for slot, found in names.items()]
        slots: dict[str, tuple[Slot, str | None]] = {}
        for slot, target in zip(names, targets, strict=True):
            slots[target.name] = (slot, None)
            slots.update({part.name: (slot, name) for part, name in zip(target.parts, slot.parts, strict=True)})
        return targets, slots


def _target(slot: Slot, names: Sequence[str]) -> Target:
    """A slot as what a checkpoint may fill, by its names relative to the module that is loaded into."""
    stem = names[0].removesuffix(slot.places[0][1])
    parts = tuple(
        Target(
            f"{stem}parametrizations.{name.partition('parametrizations.')[2]}",
            (),
            tuple(part.tensor.shape),
            part.tensor.dtype,
            slot.is_buffer,
        )
        for name, part in slot.parts.items()
    )
    return Target(names[0], tuple(names[1:]), slot.shape, slot.dtype, slot.is_buffer, parts)


def is_initialised(node: Node) -> bool:
    """The module says that its weights are what they should be."""
    return getattr(node.module, "is_init", False) is True


def carrier_path(node: Node) -> str:
    """The qualified name of a module, for messages."""
    return node.path or type(node.module).__name__


def _with_overrides(rules: Iterable[Rule]) -> Iterator[Rule]:
    for rule in rules:
        yield rule
        yield from _with_overrides(rule.overrides)


def _what(initializer: WeightInitializer, *, is_bias: bool) -> str:
    return initializer.describe_bias() if is_bias else initializer.describe()


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        items = [item.__name__ if isinstance(item, type) else item for item in value]
        return repr(items[0]) if len(items) == 1 else repr(items)
    return repr(value)
