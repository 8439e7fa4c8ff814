"""What an initialisation will do, as data that can be read, printed and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.errors import CheckpointError, Fault, InitConfigError
from lightning_init.planner import Opener, Planner
from lightning_init.steps import Call, Claim, Done, Fill, Load, LoadStep, Step, claims_of, settle
from lightning_init.text import Legend, columns
from lightning_init.tree import Slot, Tree

__all__ = ["InitPlan", "PlanEntry", "PlannedClaim", "SoFar", "build_plan", "check_configs", "make_plan"]


@dataclass(frozen=True)
class PlannedClaim:
    """One writer of a parameter.

    Attributes:
        source: Where it was declared, or the method that may write.
        what: The declared initializer with its arguments.
        certain: It will write, unless a later one does; a method only may.
        executed: Its numbers are really made, because nothing later replaces them unread.
    """

    source: str
    what: str
    certain: bool
    executed: bool


@dataclass(frozen=True)
class PlanEntry:
    """What will happen to one parameter or persistent buffer.

    Attributes:
        name: Its qualified name, that of the first registration.
        aliases: The other names of a tied parameter.
        shape: Its shape.
        dtype: The type of its elements.
        is_buffer: It is a buffer.
        claims: All that would write it, in the order of writing.
        kept_by: The ``Keep`` rule that protects it, if there is one.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_buffer: bool
    claims: tuple[PlannedClaim, ...]
    kept_by: str | None = None

    @property
    def winner(self) -> PlannedClaim | None:
        """The last certain writer; a method in `claims` behind it may still write."""
        return next((claim for claim in reversed(self.claims) if claim.certain), None)


@dataclass(frozen=True)
class SoFar:
    """What holds already when a part of an initialisation is planned while it runs.

    Attributes:
        kept: The slots that are protected, each with the place of the rule.
        loaded: The slots that hold what a checkpoint loaded, likewise.
    """

    kept: Mapping[Slot, str] = field(default_factory=dict)
    loaded: Mapping[Slot, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InitPlan:
    """The plan of an initialisation; ``print(plan)`` explains every winner and loser.

    Attributes:
        entries: One for each distinct parameter and persistent buffer.
        warnings: What is probably not meant; errors under ``strict=True``.
        notes: What the user may want to know.
    """

    entries: tuple[PlanEntry, ...]
    warnings: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    steps: Sequence[Step] = field(default=(), repr=False, compare=False)
    executed: frozenset[Claim] = field(default=frozenset(), repr=False, compare=False)
    kept: dict[Slot, str] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> PlanEntry:
        """The entry of a parameter by any of its names."""
        for entry in self.entries:
            if name in (entry.name, *entry.aliases):
                return entry
        raise KeyError(name)

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    @property
    def claims(self) -> list[Claim]:
        """All claims in writing order."""
        return list(claims_of(_flat(self.steps)))

    @property
    def calls(self) -> list[Call]:
        """The methods that are called, nested ones included."""
        return [step for step in _flat(self.steps) if isinstance(step, Call)]

    @property
    def load_steps(self) -> list[LoadStep]:
        """The checkpoints that are read, nested ones included."""
        return [step for step in _flat(self.steps) if isinstance(step, LoadStep)]

    def signature(self) -> dict[str, str]:
        """The claims of every parameter as text, for a comparison between ranks."""
        return {
            entry.name: f"{entry.shape} {[(claim.source, claim.what) for claim in entry.claims]}"
            for entry in self.entries
        }

    def untouched(self) -> list[str]:
        """The parameters that nothing can write, protected ones aside."""
        return [e.name for e in self.entries if not (e.is_buffer or e.claims or e.kept_by)]

    def unexpected(self) -> list[str]:
        """The keys of checkpoints that nothing takes, each with its rule."""
        return [f"{step.source}: {key}" for step in self.load_steps for key in step.match.unexpected]

    def __str__(self) -> str:
        legend = Legend()
        rows = [("parameter", "shape", "written by", "instead of")]
        for entry in self.entries:
            if entry.is_buffer and not entry.claims:
                continue
            name = " = ".join((entry.name, *entry.aliases))
            shape = "x".join(map(str, entry.shape)) or "scalar"
            rows.append((name, shape, _winner(entry, legend), _losers(entry, legend)))
        told = [f"warning: {fault}" for fault in self.warnings] + [f"note: {note}" for note in self.notes]
        told += [f"note: {step.source}: {step.match.summary()}" for step in self.load_steps]
        if any("(run)" in row[3] for row in rows):
            told.append("(run): these numbers are made all the same, since a method may read them")
        return "\n".join([columns(rows), *filter(None, [str(legend)]), *told])


def _winner(entry: PlanEntry, legend: Legend) -> str:
    """Who writes last, and the methods that may write after it."""
    if entry.kept_by:
        return f"kept by {entry.kept_by}"
    winner = entry.winner
    after = entry.claims[entry.claims.index(winner) + 1 :] if winner else entry.claims
    told = legend.number(winner.source, winner.what) if winner else "nobody, constructor's values"
    methods = [legend.number(claim.source, claim.what) for claim in after]
    return " then perhaps ".join([told, *methods])


def _losers(entry: PlanEntry, legend: Legend) -> str:
    """Who would have written before, the last one first; marked what runs all the same, for a method to read."""
    winner = entry.winner
    before = entry.claims[: entry.claims.index(winner)] if winner else ()
    return ", ".join(
        f"{legend.number(claim.source, claim.what)}{' (run)' if claim.certain and claim.executed else ''}"
        for claim in reversed(before)
    )


def build_plan(module: nn.Module, init_cfg: Any = None) -> InitPlan:
    """What `init_weights` would do to a module; nothing is written, and a module on ``meta`` will do.

    Args:
        module: The module, with an ``init_cfg`` on itself or on modules below.
        init_cfg: A config in place of the module's own.

    Returns:
        The plan.

    Raises:
        InitConfigError: Faults of the configs, all of them.
        CheckpointError: A checkpoint cannot be read or does not fit.

    >>> print(build_plan(nn.Linear(2, 1), dict(type="Normal", layer="Linear", std=0.01, bias=1)))
    parameter  shape  written by  instead of
    weight     1x2    [1]
    bias       1      [2]
    [1]  init_cfg  Normal(mean=0, std=0.01)
    [2]  init_cfg  Normal(bias=1)
    """
    plan = make_plan(Tree(module), init_cfg=init_cfg)
    for step in plan.load_steps:
        step.checkpoint.close()
    return plan


def check_configs(tree: Tree, init_cfg: Any = None, label: str = "init_cfg") -> None:
    """Reads every config of a tree, without looking for what its rules match.

    Raises:
        InitConfigError: With the faults of all configs.
    """
    planner = Planner(tree, PretrainedInit.open, label)
    planner.read(tree.root, init_cfg)
    if planner.faults:
        raise InitConfigError(planner.faults)


def make_plan(
    tree: Tree,
    *,
    init_cfg: Any = None,
    label: str = "init_cfg",
    at: nn.Module | None = None,
    alone: bool = False,
    with_method: bool = True,
    open_checkpoint: Opener = PretrainedInit.open,
    so_far: SoFar | None = None,
) -> InitPlan:
    """Plans a module of a tree.

    Args:
        tree: The tree that gives the names.
        init_cfg: A config in place of the module's own.
        label: The name of this config in messages.
        at: The module; the root by default.
        alone: Only this config counts, none of the modules' own and no method.
        with_method: The module's own ``init_weights`` is a step.
        open_checkpoint: How a checkpoint is opened.
        so_far: For a part of an initialisation that runs, what holds already.

    Raises:
        InitConfigError: Faults of the configs and what is wrong with checkpoints besides.
        CheckpointError: Only checkpoints are at fault.
    """
    node = tree.root if at is None else tree.nodes[at]
    planner = Planner(tree, open_checkpoint, label)
    so_far = so_far or SoFar()
    planner.kept.update(so_far.kept)
    steps = planner.alone(node, init_cfg) if alone else planner.whole(node, init_cfg, with_method=with_method)
    executed = settle(steps)
    faults = planner.faults + [
        fault for claim in claims_of(_flat(steps)) if claim in executed for fault in _check(claim)
    ]
    if faults:
        raise InitConfigError(faults + planner.checkpoint_faults)
    if planner.checkpoint_faults:
        raise CheckpointError(planner.checkpoint_faults)
    overwritten, notes = _over_checkpoints(steps, so_far.loaded)
    return InitPlan(
        _entries(tree, steps, executed, planner.kept),
        tuple(dict.fromkeys([*planner.warnings, *overwritten])),
        tuple(dict.fromkeys([*planner.notes, *notes])),
        steps,
        frozenset(executed),
        planner.kept,
    )


def _flat(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, Call) and step.nested is not None:
            yield from _flat(step.nested)


def _check(claim: Claim) -> Iterator[Fault]:
    """What keeps a claim from being executed."""
    slot = claim.slot
    if slot.is_lazy:
        yield Fault(
            claim.source, f"{slot.name!r} has no shape yet; run one batch through the model before initialising"
        )
        return
    if not isinstance(claim, Fill):
        return
    obstacle = claim.obstacle()
    if obstacle:
        yield Fault(claim.source, f"cannot fill {slot.name!r}: {obstacle}")


def _over_checkpoints(steps: Sequence[Step], loaded_before: Mapping[Slot, str]) -> tuple[list[Fault], list[str]]:
    """Rules, and other checkpoints, that write over weights which a checkpoint loaded."""
    loaded = dict(loaded_before)
    over: dict[tuple[str, str, bool], list[str]] = {}
    for claim in claims_of(_flat(steps)):
        before = loaded.get(claim.slot)
        is_load = isinstance(claim, Load)
        if before is not None and before != claim.source and not claim.source.startswith(f"{before}.override"):
            over.setdefault((claim.source, before, is_load), []).append(claim.slot.name)
        if is_load:
            loaded[claim.slot] = claim.source
    faults = [
        Fault(source, f"writes over weights that the checkpoint of {before} loaded: {_some(names)}")
        for (source, before, is_load), names in over.items()
        if not is_load
    ]
    notes = [
        f"{source}: its checkpoint is loaded over that of {before}: {_some(names)}"
        for (source, before, is_load), names in over.items()
        if is_load
    ]
    return faults, notes


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _entries(tree: Tree, steps: Sequence[Step], executed: set[Claim], kept: dict[Slot, str]) -> tuple[PlanEntry, ...]:
    claims: dict[Slot, list[PlannedClaim]] = {slot: [] for slot in tree.slots}

    def collect(level: Sequence[Step], *, certain: bool) -> None:
        for step in level:
            if isinstance(step, Call):
                if step.nested is not None:
                    collect(step.nested, certain=False)
                for slot in step.covers:
                    claims[slot].append(PlannedClaim(step.source, "init_weights", certain=False, executed=True))
            elif not isinstance(step, Done):
                for claim in step.claims:
                    planned = PlannedClaim(claim.source, claim.what, certain=certain, executed=claim in executed)
                    if planned not in claims[claim.slot]:
                        claims[claim.slot].append(planned)

    collect(steps, certain=True)
    return tuple(
        PlanEntry(slot.name, slot.aliases, slot.shape, slot.dtype, slot.is_buffer, tuple(found), kept.get(slot))
        for slot, found in claims.items()
    )
