"""The storage that an initialisation gives to what was built on ``meta``, and what may not stay unset in it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from lightning_init.errors import Fault, InitConfigError, InitError
from lightning_init.garbage import collected
from lightning_init.ledger import Ledger, Written
from lightning_init.materialize import UNSET, MetaPlan, allocate, materialize, plan_meta, reset, valued
from lightning_init.plan import InitPlan
from lightning_init.tree import Tree
from lightning_init.units import unflattened
from lightning_init.wrappers import class_name, every_module

__all__ = ["Storage"]


@dataclass
class Storage:
    """Gives storage to what is on ``meta``, once.

    Attributes:
        device: Where to; None if tensors on ``meta`` are errors.
        blank: The places of tensors that have storage, and hold whatever was in that memory.
    """

    device: torch.device | None = None
    blank: AbstractSet[tuple[nn.Module, str]] = frozenset()
    _plan: MetaPlan = field(default_factory=lambda: MetaPlan({}, ()))
    _claimed: set[str] = field(default_factory=set)
    _undo: Callable[[], None] = lambda: None

    def take_plan(self, tree: Tree, plan: InitPlan) -> list[Fault]:
        """Learns what a plan writes.

        Returns:
            What would certainly stay unset memory.
        """
        if self.device is None and not self.blank:
            return []
        certain = {entry.name for entry in plan if entry.winner}
        self._plan = plan_meta(tree, {slot for slot in tree.slots if slot.name in certain}, self.blank)
        self._claimed = {entry.name for entry in plan if entry.claims}
        return [Fault(name, UNSET) for name in self._plan.unset if name not in self._claimed]

    def allocate(self, tree: Tree, seed: int, ledger: Ledger) -> bool:
        """Gives storage, and resets what no rule writes.

        Returns:
            Methods of modules have run for that.

        Raises:
            InitConfigError: A ``reset_parameters`` leaves memory unset that nothing else will write.
        """
        spare = set(valued(tree, self.blank)) if self._plan.resets else set()
        if self.device is not None:
            self._undo = allocate(tree, self.device)
        left: list[str] = []
        for node, attributes in self._plan.resets.items():
            with collected():
                written, unset = reset(tree, node, attributes, seed, spare)
            source = f"{class_name(node.module)}.reset_parameters"
            ledger.written.update({name: Written(source) for name in written})
            left += unset
        self._plan = replace(self._plan, unset=(*self._plan.unset, *left))
        hopeless = [name for name in left if name not in self._claimed]
        if hopeless:
            raise InitConfigError([Fault(name, UNSET) for name in hopeless])
        return bool(self._plan.resets)

    def for_restore(self, module: nn.Module) -> None:
        """Gives storage to a module, with its wrappers, that a restore is about to fill.

        Raises:
            InitConfigError: A buffer that no checkpoint holds has no ``reset_parameters`` either.
        """
        if self.device is not None:
            with unflattened(every_module(module)):
                materialize(Tree(module), self.device, self.blank)

    def refuse_unset(self, ledger: Ledger) -> None:
        """Looks at what was written in the end.

        Raises:
            InitConfigError: A method left memory unset.
        """
        unset = [name for name in self._plan.unset if name not in ledger.written]
        if unset:
            raise InitConfigError([Fault(name, UNSET) for name in unset])

    def may_be_restored(self, tree: Tree, error: InitError) -> bool:
        """Whether an error says no more than that parameters with storage are unset, which a restore would set."""
        places = {slot.name: slot.places for slot in tree.slots}
        return all(
            fault.what == UNSET and not self.blank.isdisjoint(places.get(fault.where, ())) for fault in error.faults
        )

    def give_back(self) -> None:
        """Puts all on ``meta`` again, so that unset memory is not taken for weights after a failure."""
        self._undo()
