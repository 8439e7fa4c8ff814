"""From a module tree and its configs to steps, without touching a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from lightning_init.carried import SAID, carried_by, is_initialised, own_attribute, says_anything
from lightning_init.checkpoint.base import Checkpoint, Reading
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.config import read
from lightning_init.elsewhere import initialised_elsewhere
from lightning_init.errors import Fault, InitError
from lightning_init.initializers.base import WeightInitializer
from lightning_init.methods import own_method
from lightning_init.recipe import Recipe
from lightning_init.rules import Rule
from lightning_init.selection import Selection
from lightning_init.slot import Slot, join
from lightning_init.steps import Call, Done, Fill, FillStep, Load, LoadStep, Step
from lightning_init.text import some
from lightning_init.tree import Node, Tree

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
        elsewhere: The slots that another library has filled, with its name: a rule has to reach them by ``name``.
    """

    def __init__(self, tree: Tree, open_checkpoint: Opener, label: str = "init_cfg") -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.checkpoint_faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.notes: list[str] = []
        self.kept: dict[Slot, str] = {}
        self.elsewhere = initialised_elsewhere(tree)
        self._kept_nodes: set[Node] = set()
        # Those that say anything, and all above them: the others have no steps.
        self._passed: AbstractSet[Node] = frozenset()
        self._open = open_checkpoint
        self._given_label = label
        self._opened: dict[tuple[str, str | None, Reading], Checkpoint] = {}
        self._rules: dict[Node, tuple[Rule, ...]] = {}
        self._selections: dict[Node, Selection] = {}
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
        """Reads every config first: their faults are told together, and `Keep` reaches past the order of writing.

        The steps of a module that is initialised already are skipped, so only the `Keep` rules at and below it count.
        """
        every = self.tree.nodes.values() if top is self.tree.root else _reached(top, lambda _: True)
        speaking = _speaking(every)
        self._passed = _leading_to(speaking, every) if speaking.keys() - {top} else {top}
        skipped = {node for node in speaking if node is not top and is_initialised(node.module)}
        asked = _reached(top, lambda node: node not in skipped) if skipped else {top: None, **speaking}
        for node in asked:
            replaced = node is top and init_cfg is not None
            config = init_cfg if replaced else carried_by(node.module)
            if config is not None:
                self._parse(node, config, self._given_label if replaced else self._label(node))
                self._protect(node)
        for node in speaking if skipped else ():
            config = None if node in asked else carried_by(node.module)
            if config is not None:
                self._rules[node], _ = read(config, self._label(node))
                self._protect(node, tell=False)

    def _selection(self, node: Node) -> Selection:
        if node not in self._selections:
            self._selections[node] = Selection(self.tree, node)
        return self._selections[node]

    def _label(self, node: Node) -> str:
        return join(self._selection(node).label, "init_cfg")

    def _parse(self, node: Node, init_cfg: Any, where: str) -> None:
        self._rules[node], faults = read(init_cfg, where)
        self.faults.extend(faults)

    def _protect(self, carrier: Node, *, tell: bool = True) -> None:
        selection = self._selection(carrier)
        for rule in _with_overrides(self._rules[carrier]):
            if rule.is_keep:
                resolved, faults = selection.resolved(rule)
                nodes, slots = selection.protected(resolved.scope)
                self._kept_nodes |= nodes
                self.kept.update({slot: rule.where for slot in slots if slot not in self.kept})
                self.faults.extend(faults if tell else ())
                if tell and not slots:
                    self._matches_nothing(rule, selection)

    def _steps(self, node: Node) -> list[Step]:
        if node in self._visited or node in self._kept_nodes or is_initialised(node.module):
            return []
        self._visited.add(node)
        method = own_method(node.module)
        if method.replaces_steps and method.is_called:
            nested = self._inner_steps(node, with_method=False)
            return [Call(node, method.source, self.tree.covered(node), nested), Done(node)]
        return self._inner_steps(node)

    def _inner_steps(self, node: Node, *, with_method: bool = True) -> list[Step]:
        """The four steps of a module: its rules, its children, its method, its checkpoints."""
        rules = self._rules.get(node, ())
        steps: list[Step] = []
        for rule in rules:
            if not rule.is_pretrained:
                steps += self._rule_steps(rule, node)
        for child in node.children.values():
            if child in self._passed:
                steps += self._steps(child)
        method = own_method(node.module)
        if method.refused and with_method:
            self.notes.append(f"{self._selection(node).label}: {method.refused}")
        if with_method and method.is_called:
            steps.append(Call(node, method.source, self.tree.covered(node)))
        for rule in rules:
            if rule.is_pretrained:
                steps += self._rule_steps(rule, node)
        if rules or method.is_called or own_attribute(node.module, "is_init") is not None or node is self.tree.root:
            steps.append(Done(node))
        return steps

    def _rule_steps(self, rule: Rule, carrier: Node) -> Iterator[FillStep | LoadStep]:
        selection = self._selection(carrier)
        self.warnings.extend(selection.unknown_layers(rule))
        if isinstance(rule.initializer, PretrainedInit):
            yield from self._load_steps(rule, rule.initializer, selection)
        elif isinstance(rule.initializer, WeightInitializer):
            yield self._fill_step(rule, rule.initializer, selection)
        for override in rule.overrides:
            yield from self._rule_steps(override, carrier)

    def _fill_step(self, rule: Rule, initializer: WeightInitializer, selection: Selection) -> FillStep:
        rule = self._resolved(rule, selection)
        meant = selection.parameters(rule.scope)
        claims = []
        recipes = [Recipe.of(initializer, is_bias=is_bias) for is_bias in (False, True)]
        spared = () if rule.scope.name else self._spared(rule, meant)
        for slot, name in meant.items():
            if slot in spared:
                continue
            recipe = recipes[name == "bias" and not rule.bias_by_initializer]
            if slot not in self.kept:
                claims.append(Fill(slot, rule.where, recipe.what, recipe))
        self.faults.extend(fault for slot, fault in selection.undone_by_hooks(rule) if slot not in self.kept)
        if not meant and (rule.scope or not rule.overrides):
            self._matches_nothing(rule, selection)
        self._over_others(rule, (claim.slot for claim in claims))
        return FillStep(tuple(claims), selection.carrier)

    def _spared(self, rule: Rule, meant: Collection[Slot]) -> set[Slot]:
        """What another library has filled and a rule without a ``name`` leaves alone; told."""
        if not self.elsewhere:
            return set()
        found = {slot: self.elsewhere[slot] for slot in meant if slot in self.elsewhere and slot not in self.kept}
        for by, slots in _grouped(found).items():
            told = f"leaves alone what {by} has filled, {_names(slots)}; a rule with a `name` writes it"
            if len(found) < len(meant):
                self.notes.append(f"{rule.where}: {told}")
            else:
                self.warnings.append(Fault(rule.where, f"has no effect, since it {told}"))
        return set(found)

    def _over_others(self, rule: Rule, slots: Iterable[Slot]) -> None:
        """Tells that a rule writes what another library has filled."""
        found = {slot: self.elsewhere[slot] for slot in slots if slot in self.elsewhere} if self.elsewhere else {}
        for by, over in _grouped(found).items():
            self.notes.append(f"{rule.where}: writes over what {by} has filled: {_names(over)}")

    def _resolved(self, rule: Rule, selection: Selection) -> Rule:
        rule, faults = selection.resolved(rule)
        self.faults.extend(faults)
        return rule

    def _matches_nothing(self, rule: Rule, selection: Selection) -> None:
        told = selection.why_nothing(rule.scope)
        if told:
            self.warnings.append(Fault(rule.where, told))

    def _load_steps(self, rule: Rule, initializer: PretrainedInit, selection: Selection) -> Iterator[LoadStep]:
        roots = [selection.carrier]
        scope = rule.scope
        if rule.is_override:
            rule = self._resolved(rule, selection)
            roots = selection.modules(replace(rule.scope, params=()))
            scope = replace(rule.scope, name=None)
        spared = set(self.kept).union(*(self._filled_by(override, selection) for override in rule.overrides))
        for root in roots:
            targets, slots = self._selection(root).targets(scope, spared)
            try:
                # Opening is collective and the device a matter of each rank, so that comes first.
                checkpoint = self._checkpoint(initializer)
                initializer.check_device()
                matched = initializer.match(checkpoint, targets)
            except InitError as error:
                self.checkpoint_faults.extend(fault.below(rule.where) for fault in error.faults)
                return
            self.warnings.extend(fault.below(rule.where) for fault in matched.warnings)
            claims = []
            for name, key in matched.loaded.items():
                slot, part = slots[name]
                detail = matched.detail(name)
                told = f"{key} ({detail})" if detail else key
                if slot not in self.kept:
                    claims.append(Load(slot, rule.where, initializer.describe(), initializer, name, told, part))
            self._over_others(rule, (claim.slot for claim in claims))
            yield LoadStep(tuple(claims), rule.where, matched, checkpoint, slots, selection.carrier)

    def _filled_by(self, override: Rule, selection: Selection) -> set[Slot]:
        """What an override writes over what its rule has loaded."""
        resolved, _ = selection.resolved(override)
        return set(selection.parameters(resolved.scope))

    def _checkpoint(self, initializer: PretrainedInit) -> Checkpoint:
        key = (str(initializer.checkpoint), initializer.sha256, initializer.reading)
        if key not in self._opened:
            self._opened[key] = self._open(initializer)
        return self._opened[key]


def _reached(top: Node, enters: Callable[[Node], bool]) -> dict[Node, None]:
    """The modules at and below one, in the order of registration, without those that are not entered."""
    found: dict[Node, None] = {}
    waiting = [top]
    while waiting:
        node = waiting.pop()
        if node not in found and enters(node):
            found[node] = None
            waiting.extend(reversed(node.children.values()))
    return found


def _speaking(nodes: Iterable[Node]) -> dict[Node, None]:
    """The modules that say anything of their initialisation, which most do not."""
    heard: dict[type, bool] = {}
    found: dict[Node, None] = {}
    for node in nodes:
        module = node.module
        cls = type(module)
        if cls not in heard:
            heard[cls] = says_anything(cls)
        if heard[cls] or not SAID.isdisjoint(vars(module)):
            found[node] = None
    return found


def _leading_to(nodes: Iterable[Node], every: Iterable[Node]) -> set[Node]:
    """Modules, and all above them."""
    parents: dict[Node, list[Node]] = {}
    for node in every:
        for child in node.children.values():
            parents.setdefault(child, []).append(node)
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += parents.get(node, ())
    return found


def _with_overrides(rules: Iterable[Rule]) -> Iterator[Rule]:
    for rule in rules:
        yield rule
        yield from _with_overrides(rule.overrides)


def _grouped(found: Mapping[Slot, str]) -> dict[str, list[Slot]]:
    """The slots under what is said of them."""
    groups: dict[str, list[Slot]] = {}
    for slot, by in found.items():
        groups.setdefault(by, []).append(slot)
    return groups


def _names(slots: Iterable[Slot]) -> str:
    return some([slot.name for slot in slots])
