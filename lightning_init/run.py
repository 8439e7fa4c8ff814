"""One initialisation while it runs: executing the steps of a plan, and of parts that methods ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from lightning_init import distributed
from lightning_init.admission import refusals
from lightning_init.calls import Calls
from lightning_init.carried import is_initialised
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.broadcast import BroadcastCheckpoint
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.errors import InitConfigError
from lightning_init.forest import Forest
from lightning_init.garbage import uncollected
from lightning_init.ledger import Ledger, warn
from lightning_init.plan import InitPlan
from lightning_init.planning import SoFar, make_plan
from lightning_init.report import InitReport
from lightning_init.settings import Settings
from lightning_init.settling import Executed, settle
from lightning_init.slot import Slot
from lightning_init.steps import Call, Done, FillStep, LoadStep, Step
from lightning_init.storage import Storage
from lightning_init.tree import Tree
from lightning_init.workers import Workers
from lightning_init.wrappers import class_name, unwrap
from lightning_init.writer import Writer

__all__ = ["Run", "running"]


@dataclass
class Run:
    """One initialisation while it runs, from its root.

    Attributes:
        root: The tree of the root, which gives the names.
        settings: How it is run.
        storage: What tensors on ``meta`` get; without a device they are errors.
        init_cfg: A config in place of the root's own.
        seed: The seed of the random streams.
        ledger: Who wrote what.
        marked: The modules that have been marked with ``is_init``.
    """

    root: Tree
    settings: Settings
    storage: Storage = field(default_factory=Storage)
    init_cfg: Any = None
    seed: int | None = None
    marked: list[nn.Module] = field(default_factory=list)
    ledger: Ledger = field(init=False)
    _forest: Forest = field(init=False)
    _calls: Calls = field(init=False)
    _done: set[nn.Module] = field(default_factory=set)
    _checkpoints: list[Checkpoint] = field(default_factory=list)
    _workers: Workers = field(init=False)

    def __post_init__(self) -> None:
        self.ledger, self._workers = Ledger(self.settings), Workers(self.settings.threads)
        self._forest, self._calls = Forest(self.root), Calls(self.ledger)

    @cached_property
    def _writer(self) -> Writer:
        assert self.seed is not None  # noqa: S101 - drawn before anything runs
        return Writer(self.ledger, self.seed, self._workers)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Ends threads and checkpoints; after a failure, no module says that it is initialised or has storage."""
        try:
            yield
        except BaseException:
            for module in self.marked:
                module.is_init = False  # type: ignore[assignment]  # a plain attribute, on any module
            self.storage.give_back()
            raise
        finally:
            self._workers.close()
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
        faults = refusals(plan, self.settings, gets_storage=self.storage.device is not None, is_part=is_part)
        if not is_part:
            faults += self.storage.take_plan(self._forest.tree, plan)
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
            self._forest.has_changed = self.storage.allocate(self._forest.tree, self._writer.seed, self.ledger)
            self._steps(plan.steps, plan.executed)
        finally:
            running.reset(token)
        self.storage.refuse_unset(self.ledger)

    @uncollected()
    def part(self, module: nn.Module, init_cfg: Any, *, alone: bool = False, with_method: bool = True) -> None:
        """Initialises a part of the tree from within a method that is running."""
        module = unwrap(module)
        if not alone and is_initialised(module):
            warn([f"{class_name(module)} is initialised already (is_init is True); nothing was changed"])
            return
        # What runs already is not called again from inside.
        with_method = with_method and not self.is_calling(module)
        tree = self._forest.with_(module)
        with self._calls.between_writes(tree.part(tree.nodes[module])):
            prepared = None
            if not (alone or with_method or init_cfg is not None):
                prepared = self._calls.take_prepared(module)
            if prepared is not None:
                steps = [step for step in prepared if self._is_pending(step)]
                self._steps(steps, settle(steps))
            else:
                if module is self._forest.root and init_cfg is None:
                    init_cfg = self.init_cfg
                plan = self._plan_part(tree, module, init_cfg, alone=alone, with_method=with_method)
                self._steps(plan.steps, plan.executed)

    def is_calling(self, module: nn.Module) -> bool:
        """Whether the module's own method runs at the moment."""
        return self._calls.is_running(module)

    def _is_pending(self, step: Step) -> bool:
        """Whether its module has not been initialised since the plan was made, from within a method."""
        return step.owner is None or step.owner.module not in self._done

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

    def _steps(self, steps: Sequence[Step], executed: Executed) -> None:
        for step in steps:
            if not self._is_pending(step):
                continue
            if isinstance(step, FillStep):
                self._writer.fill(executed.fills[step])
            elif isinstance(step, LoadStep):
                self._writer.load(step, executed.loads[step])
            elif isinstance(step, Call):
                self._forest.has_changed = True
                self._calls.run(step, self._forest.tree, self._writer)
            elif isinstance(step, Done):
                self._done.add(step.node.module)
                step.node.module.is_init = True  # type: ignore[assignment]  # a plain attribute, on any module
                self.marked.append(step.node.module)

    def digests(self) -> tuple[dict[str, str], dict[str, str]]:
        """A digest of every parameter that was written; see `Ledger.digests`."""
        return self.ledger.digests(self._forest.now())

    def report(self) -> InitReport:
        """The report of the root.

        Raises:
            InitConfigError: Nothing wrote a parameter, which ``require_all`` forbids.
        """
        return self.ledger.report(self._forest.now(), self.seed)

    def report_of(self, module: nn.Module) -> InitReport:
        """The report of a part, so far."""
        module = unwrap(module)
        tree = self._forest.with_(module)
        return self.ledger.report(tree, self.seed, tree.nodes[module])


running: ContextVar[Run | None] = ContextVar("lightning_init_running", default=None)
"""The initialisation that runs, as a module's own ``init_weights`` sees it."""


def _try_adapters(plan: InitPlan) -> None:
    for step in plan.load_steps:
        step.try_adapters(plan.executed.loads[step])


def _by_slot(slots: Sequence[Slot], places: Mapping[str, str]) -> dict[Slot, str]:
    return {slot: places[slot.name] for slot in slots if slot.name in places}
