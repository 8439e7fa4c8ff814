"""One initialisation while it runs: executing the steps of a plan, and of parts that methods ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lightning_init import distributed
from lightning_init.admission import refusals
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.broadcast import BroadcastCheckpoint
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.config import is_initialised
from lightning_init.errors import Fault, InitConfigError
from lightning_init.finite import refuse_nan
from lightning_init.gathering import gathered
from lightning_init.ledger import Ledger, Written, warn
from lightning_init.materialize import UNSET, MetaPlan, allocate, plan_meta, reset
from lightning_init.plan import InitPlan
from lightning_init.planning import SoFar, make_plan
from lightning_init.report import InitReport
from lightning_init.rng import isolated
from lightning_init.settings import Settings
from lightning_init.steps import Call, Claim, Done, FillStep, LoadStep, Step, settle
from lightning_init.tracking import Tracker
from lightning_init.tree import Slot, Tree
from lightning_init.wrappers import class_name, unwrap
from lightning_init.writer import Writer

__all__ = ["Run", "running"]


@dataclass(frozen=True)
class _Method:
    """A module's own ``init_weights`` while it runs."""

    module: nn.Module
    source: str
    tracker: Tracker


@dataclass(frozen=True)
class _Prepared:
    """The steps that ``super().init_weights()`` is to run, and what the module held when they were planned."""

    steps: Sequence[Step]
    held: frozenset[tuple[nn.Module, str]]


@dataclass
class Run:
    """One initialisation while it runs, from its root.

    Attributes:
        tree: The tree of the root, which gives the names.
        settings: How it is run.
        meta_to: Where tensors on ``meta`` get their storage; None if they are errors.
        init_cfg: A config in place of the root's own.
        seed: The seed of the random streams.
        ledger: Who wrote what.
        marked: The modules that have been marked with ``is_init``.
    """

    tree: Tree
    settings: Settings
    meta_to: torch.device | None = None
    init_cfg: Any = None
    seed: int | None = None
    meta: MetaPlan = field(default_factory=lambda: MetaPlan({}, ()))
    marked: list[nn.Module] = field(default_factory=list)
    ledger: Ledger = field(init=False)
    _called: set[str] = field(default_factory=set)
    _undo_allocation: Callable[[], None] = lambda: None
    _prepared: dict[nn.Module, _Prepared] = field(default_factory=dict)
    _methods: list[_Method] = field(default_factory=list)
    _apart: dict[nn.Module, str] = field(default_factory=dict)
    _done: set[nn.Module] = field(default_factory=set)
    _checkpoints: list[Checkpoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.settings)

    @cached_property
    def _writer(self) -> Writer:
        assert self.seed is not None  # noqa: S101 - drawn before anything runs
        return Writer(self.ledger, self.seed)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Lets the checkpoints go at the end; if it failed, no module says that it is initialised or has storage."""
        try:
            yield
        except BaseException:
            for module in self.marked:
                module.is_init = False  # type: ignore[assignment]  # a plain attribute, on any module
            self._undo_allocation()
            raise
        finally:
            for checkpoint in self._checkpoints:
                checkpoint.close()

    def open_checkpoint(self, initializer: PretrainedInit) -> Checkpoint:
        """Opens a checkpoint: rank zero finds and checks it before the others touch it."""

        def keep(checkpoint: Checkpoint) -> Checkpoint:
            # At once: it has to be closed even if another rank cannot open it.
            self._checkpoints.append(checkpoint)
            return checkpoint

        if distributed.world_size() > 1 and self.settings.sync == "broadcast":
            return keep(BroadcastCheckpoint(initializer.open))
        return distributed.one_first(f"opening {initializer.address}", lambda: keep(initializer.open()))

    def admit(self, plan: InitPlan, *, is_part: bool = False) -> list[str]:
        """Takes a plan, or refuses what cannot or must not be executed.

        Args:
            plan: The plan.
            is_part: It is that of a part, from within a method.

        Returns:
            What has to be warned about.

        Raises:
            InitConfigError: Under ``strict`` or ``require_all``, because something cannot be written, or because
                memory would stay unset.
        """
        faults = refusals(plan, self.settings, gets_storage=self.meta_to is not None, is_part=is_part)
        if self.meta_to is not None and not is_part:
            certain = {entry.name for entry in plan if entry.winner}
            self.meta = plan_meta(self.tree, {slot for slot in self.tree.slots if slot.name in certain})
            self._called = {entry.name for entry in plan if entry.claims}
            faults += [Fault(name, UNSET) for name in self.meta.unset if name not in self._called]
        if faults:
            raise InitConfigError(faults)
        return self.ledger.take_plan(plan)

    def run(self, plan: InitPlan) -> None:
        """Executes a plan.

        Raises:
            CheckpointError: An adapter fails; nothing has been written then.
            InitConfigError: A method left memory unset that was on ``meta``.
        """
        _try_adapters(plan)
        token = running.set(self)
        try:
            self._materialise()
            self._steps(plan.steps, plan.executed)
        finally:
            running.reset(token)
        unset = [name for name in self.meta.unset if name not in self.ledger.written]
        if unset:
            raise InitConfigError([Fault(name, UNSET) for name in unset])

    def _materialise(self) -> None:
        if self.meta_to is None:
            return
        self._undo_allocation = allocate(self.tree, self.meta_to)
        left: list[str] = []
        for node, attributes in self.meta.resets.items():
            written, unset = reset(self.tree, node, attributes, self._writer.seed, self.meta_to)
            source = f"{class_name(node.module)}.reset_parameters"
            self.ledger.written.update({name: Written(source) for name in written})
            left += unset
        self.meta = replace(self.meta, unset=(*self.meta.unset, *left))
        hopeless = [name for name in left if name not in self._called]
        if hopeless:
            raise InitConfigError([Fault(name, UNSET) for name in hopeless])

    def part(self, module: nn.Module, init_cfg: Any, *, alone: bool = False, with_method: bool = True) -> None:
        """Initialises a part of the tree from within a method that is running."""
        module = unwrap(module)
        if not alone and is_initialised(module):
            warn([f"{class_name(module)} is initialised already (is_init is True); nothing was changed"])
            return
        # What runs already is not called again from inside.
        with_method = with_method and not self.is_calling(module)
        tree = self._tree_with(module)
        with self._between_writes(tree.part(tree.nodes[module])):
            prepared = None
            if not (alone or with_method or init_cfg is not None):
                prepared = self._prepared.pop(module, None)
            if prepared is not None and prepared.held == _held(module):
                steps = [step for step in prepared.steps if self._is_pending(step)]
                self._steps(steps, frozenset(settle(steps)))
            else:
                if module is self.tree.root.module and init_cfg is None:
                    init_cfg = self.init_cfg
                plan = self._plan_part(tree, module, init_cfg, alone=alone, with_method=with_method)
                self._steps(plan.steps, plan.executed)

    def is_calling(self, module: nn.Module) -> bool:
        """Whether the module's own method runs at the moment."""
        return any(method.module is module for method in self._methods)

    def _is_pending(self, step: Step) -> bool:
        """Whether its module has not been initialised since the plan was made, from within a method."""
        return step.owner is None or step.owner.module not in self._done

    def _tree_with(self, module: nn.Module) -> Tree:
        """A tree that knows a module as it is now; the method that is running may have made new ones."""
        if module not in self._apart and not _is_known(self.tree, module):
            self.tree = Tree(self.tree.root.module)
            if module not in self.tree.nodes:
                # Not a part of what is initialised: a name that no attribute can have, one for each.
                self._apart[module] = f"({class_name(module)} {len(self._apart)})"
        return Tree(module, self._apart[module]) if module in self._apart else self.tree

    def _plan_part(self, tree: Tree, module: nn.Module, init_cfg: Any, *, alone: bool, with_method: bool) -> InitPlan:
        slots = tree.part(tree.nodes[module])
        plan = make_plan(
            tree,
            init_cfg=init_cfg,
            at=module,
            alone=alone,
            with_method=with_method,
            open_checkpoint=self.open_checkpoint,
            so_far=SoFar(_by_slot(slots, self.ledger.kept), _by_slot(slots, self.ledger.loaded)),
        )
        warn(self.admit(plan, is_part=True))
        _try_adapters(plan)
        return plan

    @contextmanager
    def _between_writes(self, slots: Sequence[Slot]) -> Iterator[None]:
        """Keeps what the steps of a part write to its slots apart from what the method around them writes."""
        if not self._methods:
            yield
            return
        method = self._methods[-1]
        self.ledger.written_by_method(method.source, method.tracker.take_part(_tensors(slots)))
        method.tracker.active = False
        try:
            yield
        finally:
            method.tracker.take_part(_tensors(slots))
            method.tracker.active = True

    def _steps(self, steps: Sequence[Step], executed: frozenset[Claim]) -> None:
        for step in steps:
            if not self._is_pending(step):
                continue
            if isinstance(step, FillStep):
                for claim in step.claims:
                    if claim in executed:
                        self._writer.fill(claim)
                        refuse_nan(claim)
            elif isinstance(step, LoadStep):
                self._writer.load(step, [claim for claim in step.claims if claim in executed])
            elif isinstance(step, Call):
                self._call(step)
            elif isinstance(step, Done):
                self._done.add(step.node.module)
                step.node.module.is_init = True  # type: ignore[assignment]  # a plain attribute, on any module
                self.marked.append(step.node.module)

    def _call(self, call: Call) -> None:
        module, path = call.node.module, call.node.path
        if call.nested is not None:
            self._prepared[module] = _Prepared(call.nested, _held(module))
        modules = set(module.modules())
        known = self.tree.slot_of

        def snapshot() -> dict[str, Sequence[torch.Tensor]]:
            return {
                known.get(slot.places[0], slot).name: slot.tensors
                for slot in Tree(module, path).slots
                if not slot.is_buffer
            }

        with gathered(module, call.source):
            devices = {tensor.device for tensors in snapshot().values() for tensor in tensors}
            with isolated(self._writer.seed, path, devices), Tracker(snapshot) as tracker:
                method = _Method(module, call.source, tracker)
                self._methods.append(method)
                try:
                    module.init_weights()  # type: ignore[operator]  # methods.own_method has looked at it
                finally:
                    self._methods.pop()
                self.ledger.written_by_method(method.source, tracker.take())
        self._writer.replaced.update(dict.fromkeys(modules.difference(module.modules()), call.source))
        if self._prepared.pop(module, None) is not None and any(
            isinstance(s, FillStep | LoadStep) for s in call.nested or ()
        ):
            self.ledger.notes.append(
                f"{call.source} does not call super().init_weights(), so the rules of its init_cfg and of "
                f"the modules below were not run"
            )

    def digests(self) -> tuple[dict[str, str], dict[str, str]]:
        """A digest of every parameter that was written; see `Ledger.digests`."""
        return self.ledger.digests(Tree(self.tree.root.module))

    def report(self) -> InitReport:
        """The report of the root.

        Raises:
            InitConfigError: Nothing wrote a parameter, which ``require_all`` forbids.
        """
        return self.ledger.report(Tree(self.tree.root.module), self.seed)

    def report_of(self, module: nn.Module) -> InitReport:
        """The report of a part, so far."""
        module = unwrap(module)
        tree = self._tree_with(module)
        return self.ledger.report(tree, self.seed, tree.nodes[module])


running: ContextVar[Run | None] = ContextVar("lightning_init_running", default=None)
"""The initialisation that runs, as a module's own ``init_weights`` sees it."""


def _try_adapters(plan: InitPlan) -> None:
    for step in plan.load_steps:
        step.try_adapters(plan.executed)


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


def _held(module: nn.Module) -> frozenset[tuple[nn.Module, str]]:
    return frozenset(Tree(module).slot_of)


def _by_slot(slots: Sequence[Slot], places: Mapping[str, str]) -> dict[Slot, str]:
    return {slot: places[slot.name] for slot in slots if slot.name in places}


def _tensors(slots: Sequence[Slot]) -> dict[str, Sequence[torch.Tensor]]:
    return {slot.name: slot.tensors for slot in slots if not slot.is_buffer}
