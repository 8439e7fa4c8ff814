"""One initialisation while it runs: executing steps, and knowing who wrote what."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lightning_init import distributed
from lightning_init.checkpoint.broadcast import BroadcastCheckpoint
from lightning_init.checkpoint.formats import Checkpoint
from lightning_init.checkpoint.pretrained import PretrainedInit, copy_
from lightning_init.digests import digest
from lightning_init.errors import Fault, InitConfigError, InitWarning
from lightning_init.materialize import UNSET, MetaPlan, allocate, plan_meta, reset
from lightning_init.parametrized import obstacle
from lightning_init.plan import InitPlan, SoFar, make_plan
from lightning_init.report import Expected, InitReport, Row
from lightning_init.rng import Stream, isolated
from lightning_init.settings import Settings
from lightning_init.steps import Call, Claim, Done, Fill, FillStep, Load, LoadStep, Step, settle
from lightning_init.tracking import Tracker
from lightning_init.tree import Slot, Tree, unwrap, write_slot

__all__ = ["Run", "Written", "running", "warn"]

_META = (
    "is on the meta device, without storage: materialise it first, with to_empty(device=...), or leave that to "
    "InitWeightsCallback"
)


@dataclass(frozen=True)
class Written:
    """Who wrote a parameter last."""

    source: str | None
    initializer: str | None = None
    expected: Expected | None = None


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
        written: Who wrote a parameter last, by its name.
    """

    tree: Tree
    settings: Settings
    meta_to: torch.device | None = None
    init_cfg: Any = None
    seed: int | None = None
    meta: MetaPlan = field(default_factory=lambda: MetaPlan({}, ()))
    written: dict[str, Written] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loads: list[LoadStep] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    marked: list[nn.Module] = field(default_factory=list)
    _called: set[str] = field(default_factory=set)
    _undo_allocation: Callable[[], None] = lambda: None
    _prepared: dict[nn.Module, _Prepared] = field(default_factory=dict)
    _methods: list[_Method] = field(default_factory=list)
    _done: set[nn.Module] = field(default_factory=set)
    _replaced: dict[nn.Module, str] = field(default_factory=dict)
    _checkpoints: list[Checkpoint] = field(default_factory=list)

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
        if distributed.world_size() > 1 and self.settings.sync == "broadcast":
            checkpoint: Checkpoint = BroadcastCheckpoint(initializer.open)
        else:
            checkpoint = distributed.one_first(f"opening {initializer.checkpoint}", initializer.open)
        self._checkpoints.append(checkpoint)
        return checkpoint

    def admit(self, plan: InitPlan, *, is_part: bool = False) -> None:
        """Takes a plan's warnings and notes, and refuses what cannot or must not be executed.

        Args:
            plan: The plan.
            is_part: It is that of a part, from within a method; what stays untouched shows only at the end.

        Raises:
            InitConfigError: Under ``strict`` or ``require_all``, because something cannot be written, or because
                memory would stay unset.
        """
        faults = list(plan.warnings) if self.settings.strict else []
        if self.settings.require_all:
            untouched = [] if is_part else plan.untouched()
            faults += [Fault(name, "no rule writes it (require_all)") for name in untouched]
            faults += [Fault(key, "nothing takes this key (require_all)") for key in plan.unexpected()]
        faults += [
            fault
            for claim in plan.claims
            if claim in plan.executed
            for fault in _unwritable(claim, may_be_meta=self.meta_to is not None)
        ]
        if self.meta_to is None:
            faults += [fault for call in plan.calls for fault in _lost(call, plan)]
        elif not is_part:
            certain = {entry.name for entry in plan if entry.winner}
            self.meta = plan_meta(self.tree, {slot for slot in self.tree.slots if slot.name in certain})
            self._called = {entry.name for entry in plan if entry.claims}
            faults += [Fault(name, UNSET) for name in self.meta.unset if name not in self._called]
        if faults:
            raise InitConfigError(faults)
        # A part may be planned anew.
        self.warnings += [told for told in map(str, plan.warnings) if told not in self.warnings]
        self.notes += [note for note in plan.notes if note not in self.notes]
        self.kept.update({slot.name: where for slot, where in plan.kept.items()})

    def run(self, plan: InitPlan) -> None:
        """Executes a plan.

        Raises:
            InitConfigError: A method left memory unset that was on ``meta``.
        """
        token = running.set(self)
        try:
            self._materialise()
            self._steps(plan.steps, plan.executed)
        finally:
            running.reset(token)
        unset = [name for name in self.meta.unset if name not in self.written]
        if unset:
            raise InitConfigError([Fault(name, UNSET) for name in unset])

    def _materialise(self) -> None:
        if self.meta_to is None:
            return
        self._undo_allocation = allocate(self.tree, self.meta_to)
        left: list[str] = []
        for node, attributes in self.meta.resets.items():
            written, unset = reset(self.tree, node, attributes, self._seed, self.meta_to)
            source = f"{type(node.module).__name__}.reset_parameters"
            self.written.update({name: Written(source) for name in written})
            left += unset
        self.meta = replace(self.meta, unset=(*self.meta.unset, *left))
        hopeless = [name for name in left if name not in self._called]
        if hopeless:
            raise InitConfigError([Fault(name, UNSET) for name in hopeless])

    def part(self, module: nn.Module, init_cfg: Any, *, alone: bool = False, with_method: bool = True) -> InitReport:
        """Initialises a part of the tree from within a method that is running."""
        module = unwrap(module)
        if not alone and getattr(module, "is_init", False) is True:
            warn([f"{type(module).__name__} is initialised already (is_init is True); nothing was changed"])
            return self.report(module)
        # What runs already is not called again from inside.
        with_method = with_method and not self.is_calling(module)
        with self._between_writes():
            prepared = None
            if not (alone or with_method or init_cfg is not None):
                prepared = self._prepared.pop(module, None)
            if prepared is not None and prepared.held == _held(module):
                steps = [step for step in prepared.steps if self._is_pending(step)]
                self._steps(steps, frozenset(settle(steps)))
            else:
                if module is self.tree.root.module and init_cfg is None:
                    init_cfg = self.init_cfg
                plan = self._plan_part(module, init_cfg, alone=alone, with_method=with_method)
                self._steps(plan.steps, plan.executed)
        return self.report(module)

    def is_calling(self, module: nn.Module) -> bool:
        """Whether the module's own method runs at the moment."""
        return any(method.module is module for method in self._methods)

    def _is_pending(self, step: Step) -> bool:
        """Whether its module has not been initialised since the plan was made, from within a method."""
        return step.owner is None or step.owner.module not in self._done

    def _plan_part(self, module: nn.Module, init_cfg: Any, *, alone: bool, with_method: bool) -> InitPlan:
        # The method that is running may have made new modules and parameters.
        self.tree = Tree(self.tree.root.module)
        tree = self.tree if module in self.tree.nodes else _apart(module)
        plan = make_plan(
            tree,
            init_cfg=init_cfg,
            at=module,
            alone=alone,
            with_method=with_method,
            open_checkpoint=self.open_checkpoint,
            so_far=SoFar(*(_by_slot(tree, places) for places in (self.kept, self.loaded))),
        )
        known = len(self.warnings)
        self.admit(plan, is_part=True)
        warn(self.warnings[known:])
        return plan

    @contextmanager
    def _between_writes(self) -> Iterator[None]:
        """Keeps what the steps of a part write apart from what the method around them writes."""
        if not self._methods:
            yield
            return
        method = self._methods[-1]
        self._attribute(method)
        method.tracker.active = False
        try:
            yield
        finally:
            method.tracker.take()
            method.tracker.active = True

    def _steps(self, steps: Sequence[Step], executed: frozenset[Claim]) -> None:
        for step in steps:
            if not self._is_pending(step):
                continue
            if isinstance(step, FillStep):
                for claim in step.claims:
                    if claim in executed:
                        self._fill(claim)
            elif isinstance(step, LoadStep):
                self._load(step, executed)
            elif isinstance(step, Call):
                self._call(step)
            elif isinstance(step, Done):
                self._done.add(step.node.module)
                step.node.module.is_init = True  # type: ignore[assignment]  # a plain attribute, on any module
                self.marked.append(step.node.module)

    def _fill(self, claim: Fill) -> None:
        slot = claim.slot
        self._refuse_replaced(claim)
        device = torch.device("cpu") if self.settings.rng_device == "cpu" else slot.tensors[0].device
        stream = Stream(self._seed, slot.key, device)
        with self._right_inverse(slot):
            write_slot(slot, lambda tensor: claim.write(tensor, stream.generator))
        self.loaded.pop(slot.name, None)
        # What a parametrization makes of the numbers, nobody knows.
        law = None if slot.parts else claim.expected()
        self.written[slot.name] = Written(claim.source, claim.what, Expected.of(law))

    @contextmanager
    def _right_inverse(self, slot: Slot) -> Iterator[None]:
        """Some right inverses draw random numbers of their own."""
        if not slot.parts:
            yield
            return
        with isolated(self._seed, slot.key, {tensor.device for tensor in slot.tensors}):
            yield

    def _load(self, step: LoadStep, executed: frozenset[Claim]) -> None:
        self.loads.append(step)
        claims = [claim for claim in step.claims if claim in executed]
        for claim in claims:
            self._refuse_replaced(claim)

        def read() -> None:
            for claim in claims:
                value = claim.initializer.read(step.checkpoint, claim.key)
                with self._right_inverse(claim.slot):
                    copy_(claim.slot, claim.part or claim.slot.name, value)

        if claims:
            in_turn = distributed.together if self.settings.sync == "broadcast" else distributed.one_first
            in_turn(f"loading {step.checkpoint.source}", read)
        for claim in claims:
            self.written[claim.slot.name] = Written(claim.source, claim.what)
            self.loaded[claim.slot.name] = claim.source
        match = step.match
        complete = not (match.missing or match.unexpected or match.mismatched)
        self.notes.append(f"{step.source}: {match.summary() if complete else match.table()}")

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

        devices = {tensor.device for tensors in snapshot().values() for tensor in tensors}
        with isolated(self._seed, path, devices), Tracker(snapshot) as tracker:
            method = _Method(module, call.source, tracker)
            self._methods.append(method)
            try:
                module.init_weights()  # type: ignore[operator]  # methods.own_method has looked at it
            finally:
                self._methods.pop()
            self._attribute(method)
        self._replaced.update(dict.fromkeys(modules.difference(module.modules()), call.source))
        if self._prepared.pop(module, None) is not None and any(
            isinstance(s, FillStep | LoadStep) for s in call.nested or ()
        ):
            self.notes.append(
                f"{call.source} does not call super().init_weights(), so the rules of its init_cfg and of "
                f"the modules below were not run"
            )

    def _refuse_replaced(self, claim: Claim) -> None:
        slot = claim.slot
        by = self._replaced.get(slot.places[0][0])
        if by is not None:
            told = f"cannot write {slot.name!r}: {by} has replaced the module that held it; make it in the constructor"
            raise InitConfigError([Fault(claim.source, told)])

    def _attribute(self, method: _Method) -> None:
        source = method.source
        for name in method.tracker.take():
            if name in self.loaded:
                self._warn_after(
                    f"{source} writes over {name!r}, which the checkpoint of {self.loaded.pop(name)} loaded"
                )
            if name in self.kept:
                self._warn_after(
                    f"{source} writes {name!r}, which {self.kept[name]} keeps from rules and checkpoints "
                    f"but not from code"
                )
            self.written[name] = Written(source)

    def _warn_after(self, told: str) -> None:
        if self.settings.strict:
            raise InitConfigError(told)
        self.warnings.append(told)
        warn([told])

    @property
    def _seed(self) -> int:
        assert self.seed is not None  # noqa: S101 - drawn before anything runs
        return self.seed

    def digests(self) -> dict[str, str]:
        """A digest of every parameter that was written."""
        written = {slot for slot in Tree(self.tree.root.module).slots if slot.name in self.written}
        return {slot.name: digest(slot.tensors) for slot in sorted(written, key=lambda slot: slot.name)}

    def report(self, at: nn.Module | None = None) -> InitReport:
        """The report of the root, or of a part of it.

        Raises:
            InitConfigError: Nothing wrote a parameter, which ``require_all`` forbids; methods can be judged only now.
        """
        tree = Tree(self.tree.root.module)
        if at is not None and at not in tree.nodes:
            tree = _apart(at)
        inside = None if at is None else tree.covered(tree.nodes[at])
        rows = [self._row(slot) for slot in tree.slots if not slot.is_buffer and (inside is None or slot in inside)]
        untouched = [row.name for row in rows if row.source is None and not row.kept_by]
        if at is None and self.settings.require_all and untouched:
            raise InitConfigError([Fault(name, "nothing wrote it (require_all)") for name in untouched])
        notes = list(self.notes)
        if untouched:
            shown = ", ".join(untouched[:10]) + (", ..." if len(untouched) > 10 else "")
            notes.append(f"{len(untouched)} parameters keep their constructor's values, no rule writes them: {shown}")
        return InitReport(
            self.tree.root.module if at is None else at,
            rows,
            checkpoints=[(step.source, step.match) for step in self.loads],
            warnings=self.warnings,
            notes=notes,
            seed=self.seed,
        )

    def _row(self, slot: Slot) -> Row:
        written = self.written.get(slot.name, Written(None))
        return Row(
            slot.name,
            slot.aliases,
            slot.shape,
            slot.dtype,
            initializer=written.initializer,
            source=written.source,
            expected=written.expected,
            kept_by=self.kept.get(slot.name),
        )


running: ContextVar[Run | None] = ContextVar("lightning_init_running", default=None)
"""The initialisation that runs, as a module's own ``init_weights`` sees it."""


def warn(told: Sequence[str]) -> None:
    """One warning that lists everything, on rank zero."""
    if told and distributed.rank() == 0:
        frame, level = sys._getframe(), 1  # noqa: SLF001 - the way to the user's line, whatever the depth
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
            frame, level = frame.f_back, level + 1
        lines = told if len(told) == 1 else [f"{len(told)} things that are probably not meant:", *told]
        warnings.warn("\n  - ".join(lines), InitWarning, stacklevel=level)


def _apart(module: nn.Module) -> Tree:
    """The tree of a module that is not part of what is initialised, under a name that no attribute can have."""
    return Tree(module, f"({type(module).__name__})")


def _held(module: nn.Module) -> frozenset[tuple[nn.Module, str]]:
    return frozenset(Tree(module).slot_of)


def _by_slot(tree: Tree, places: Mapping[str, str]) -> dict[Slot, str]:
    return {slot: places[slot.name] for slot in tree.slots if slot.name in places}


def _lost(call: Call, plan: InitPlan) -> Iterator[Fault]:
    """What a method would write in vain."""
    lost = [slot.name for slot in call.covers if slot.is_meta and slot not in plan.kept]
    if lost:
        yield Fault(call.source, f"{min(lost)!r} {_META}")


def _unwritable(claim: Claim, *, may_be_meta: bool) -> Iterator[Fault]:
    """What keeps a claim from being written to the module as it is now."""
    slot = claim.slot
    if slot.is_meta and not may_be_meta:
        yield Fault(claim.source, f"{slot.name!r} {_META}")
    elif slot.parts and not slot.is_meta and not (isinstance(claim, Load) and claim.part):
        reason = obstacle(*slot.places[0])
        if reason:
            yield Fault(claim.source, f"cannot write {slot.name!r}: {reason}")
