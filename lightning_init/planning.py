"""Makes plans: `build_plan` for the user, `make_plan` for the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.errors import CheckpointError, Fault, InitConfigError
from lightning_init.garbage import uncollected
from lightning_init.plan import InitPlan
from lightning_init.planner import Opener, Planner
from lightning_init.settling import settle
from lightning_init.slot import Slot
from lightning_init.steps import Claim, Fill, Load, LoadStep, Step, claims_of, flat
from lightning_init.text import some
from lightning_init.tree import Tree

__all__ = ["SoFar", "build_plan", "check_configs", "make_plan"]


@dataclass(frozen=True)
class SoFar:
    """What holds already when a part of an initialisation is planned while it runs.

    Attributes:
        kept: The slots that are protected, each with the place of the rule.
        loaded: The slots that hold what a checkpoint loaded, likewise.
    """

    kept: Mapping[Slot, str] = field(default_factory=dict)
    loaded: Mapping[Slot, str] = field(default_factory=dict)


def build_plan(module: nn.Module, init_cfg: Any = None, *, label: str = "init_cfg") -> InitPlan:
    """What `init_weights` would do to a module; nothing is written, and a module on ``meta`` will do.

    Args:
        module: The module, with an ``init_cfg`` on itself or on modules below.
        init_cfg: A config in place of the module's own.
        label: What messages call that config.

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
    plan = make_plan(Tree(module), init_cfg=init_cfg, label=label)
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


@uncollected()
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
    faults = planner.faults + _obstacles(executed.claims(steps))
    if faults:
        raise InitConfigError(faults + planner.checkpoint_faults)
    if planner.checkpoint_faults:
        raise CheckpointError(planner.checkpoint_faults)
    overwritten, notes, overwrites = _over_checkpoints(steps, so_far.loaded)
    for claim in claims_of(flat(steps)) if planner.elsewhere else ():
        if claim.slot in planner.elsewhere:
            overwrites.setdefault(claim.slot, planner.elsewhere[claim.slot])
    return InitPlan(
        tuple(dict.fromkeys([*planner.warnings, *overwritten])),
        tuple(dict.fromkeys([*planner.notes, *notes])),
        tree.slots if at is None else tree.part(node),
        steps,
        executed,
        planner.kept,
        planner.elsewhere,
        overwrites,
    )


def _obstacles(claims: Iterable[Claim]) -> list[Fault]:
    """What keeps claims from being executed."""
    faults = []
    for claim in claims:
        slot = claim.slot
        if not slot.shape and slot.is_lazy:
            told = f"{slot.name!r} has no shape yet; run one batch through the model before initialising"
            faults.append(Fault(claim.source, told))
        elif isinstance(claim, Fill):
            obstacle = claim.recipe.obstacle(slot.shape, slot.dtype)
            if obstacle:
                faults.append(Fault(claim.source, f"cannot fill {slot.name!r}: {obstacle}"))
    return faults


def _over_checkpoints(
    steps: Sequence[Step], loaded_before: Mapping[Slot, str]
) -> tuple[list[Fault], list[str], dict[Slot, str]]:
    """Rules, and other checkpoints, that write over weights which a checkpoint loaded.

    Returns:
        What is said of the rules, what of the checkpoints, and the place of the rule whose checkpoint is written over.
    """
    loaded = dict(loaded_before)
    if not loaded and not any(isinstance(step, LoadStep) for step in flat(steps)):
        return [], [], {}
    overwrites: dict[Slot, str] = {}
    over: dict[tuple[str, str, bool], list[str]] = {}
    for claim in claims_of(flat(steps)):
        before = loaded.get(claim.slot)
        is_load = isinstance(claim, Load)
        if before is not None and before != claim.source and not claim.source.startswith(f"{before}.override"):
            over.setdefault((claim.source, before, is_load), []).append(claim.slot.name)
            overwrites[claim.slot] = before
        if is_load:
            loaded[claim.slot] = claim.source
    faults = [
        Fault(source, f"writes over weights that the checkpoint of {before} loaded: {some(names)}")
        for (source, before, is_load), names in over.items()
        if not is_load
    ]
    notes = [
        f"{source}: its checkpoint is loaded over that of {before}: {some(names)}"
        for (source, before, is_load), names in over.items()
        if is_load
    ]
    return faults, notes, overwrites
