"""`init_weights` and `initialize`: planning and running an initialisation, together with the other ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_init import distributed
from lightning_init.carried import is_initialised
from lightning_init.garbage import uncollected
from lightning_init.gathering import reshard
from lightning_init.ledger import warn
from lightning_init.plan import InitPlan
from lightning_init.planning import make_plan
from lightning_init.report import InitReport
from lightning_init.rng import draw_seed
from lightning_init.run import Run, running
from lightning_init.settings import RngDevice, Settings
from lightning_init.skipping import left_out
from lightning_init.storage import Storage
from lightning_init.text import some
from lightning_init.tree import Tree
from lightning_init.units import unflattened
from lightning_init.wrappers import class_name, every_module, unwrap

__all__ = ["execute", "init_weights", "initialize", "run_steps_of"]

_log = logging.getLogger("lightning_init")


def init_weights(
    module: nn.Module,
    init_cfg: Any = None,
    *,
    seed: int | None = None,
    rng_device: RngDevice = "auto",
    strict: bool = False,
    require_all: bool = False,
    threads: int | None = None,
) -> InitReport:
    """Initialises a module and all below it, as their ``init_cfg`` and ``init_weights`` say.

    The last writer wins, in this order: the module's own rules, its children, its own ``init_weights()``, its own
    ``Pretrained`` rules. A second call on the same module is a warning and changes nothing. Called from a module's
    own ``init_weights``, it continues the initialisation that runs, whose settings then hold.

    Under ``torch.distributed`` every rank has to call it; an error on one rank is raised on all.

    Args:
        module: The module; wrappers such as DDP are seen through.
        init_cfg: A config in place of the module's own; those of inner modules stand.
        seed: The seed of the random streams; by default one draw from torch's default generator on rank zero.
        rng_device: ``"auto"`` draws on a parameter's device, ``"cpu"`` gives the same bits on every kind of device.
        strict: A rule without a match, and whatever else would be a warning, is an error.
        require_all: A parameter that nothing wrote, or a checkpoint key that nothing took, is an error.
        threads: How many threads draw on the CPU, by default as many as torch may use (`torch.get_num_threads`); the
            numbers do not depend on it.

    Returns:
        One row for each parameter.

    Raises:
        InitConfigError: Faults of a config, all of them. Nothing has been written, unless it is what a module's own
            ``init_weights`` did that ``strict`` or ``require_all`` forbids: code can be judged only after it ran.
        CheckpointError: A checkpoint cannot be read or does not fit. Nothing has been written.
        RankError: Ranks disagree, or another rank failed.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> report = init_weights(net, dict(type="Constant", layer="Linear", val=0.5), seed=0)
    >>> report["0.weight"].source, report["1.weight"].source
    ('init_cfg', None)
    """
    outer = running.get()
    if outer is not None:
        outer.part(module, init_cfg)
        return outer.report_of(module)
    settings = Settings(seed, rng_device, strict, require_all, threads=threads)
    root = unwrap(module)
    if is_initialised(root):
        _skip(f"{class_name(root)} is initialised already (is_init is True); nothing was changed")
        with unflattened(every_module(module)):
            return Run(Tree(root), settings).report()
    return execute(module, settings, init_cfg=init_cfg)


def initialize(
    module: nn.Module,
    init_cfg: Any,
    *,
    seed: int | None = None,
    rng_device: RngDevice = "auto",
    strict: bool = False,
    require_all: bool = False,
    threads: int | None = None,
) -> InitReport:
    """Applies one config to a module, in the order of its rules, and nothing else.

    The configs of modules, their ``init_weights`` and ``is_init`` play no part. Arguments and errors are those of
    `init_weights`.

    >>> linear = nn.Linear(2, 3)
    >>> _ = initialize(linear, dict(type="Constant", layer="Linear", val=1, bias=2))
    >>> linear.bias.tolist()
    [2.0, 2.0, 2.0]
    """
    outer = running.get()
    if outer is not None:
        outer.part(module, init_cfg, alone=True)
        return outer.report_of(module)
    settings = Settings(seed, rng_device, strict, require_all, threads=threads)
    return execute(module, settings, init_cfg=init_cfg, alone=True)


def run_steps_of(module: nn.Module) -> None:
    """What ``BaseModule.init_weights`` does: all steps of a module but its own method, which may be the caller."""
    outer = running.get()
    if is_initialised(module):
        told = f"init_weights of {class_name(module)} has run already (is_init is True); nothing was changed"
        if outer is not None and not outer.is_calling(module):
            # A method that calls those of its children, as MMEngine needs it, does nothing wrong.
            outer.ledger.notes.append(told)
        else:
            _skip(told)
    elif outer is not None:
        outer.part(module, None, with_method=False)
    else:
        execute(module, Settings(), with_method=False)


@uncollected()
def execute(
    module: nn.Module,
    settings: Settings,
    *,
    init_cfg: Any = None,
    alone: bool = False,
    with_method: bool = True,
    label: str = "init_cfg",
    storage: Storage | None = None,
    tell: Callable[[str], None] = _log.info,
) -> InitReport:
    """Plans and runs an initialisation from its root, together with the other ranks.

    Args:
        module: The outermost module, with its wrappers.
        settings: How to run it.
        init_cfg: A config in place of the root's own.
        alone: Only this config counts.
        with_method: The root's own ``init_weights`` is a step.
        label: The name of ``init_cfg`` in messages.
        storage: What tensors on ``meta`` get; without it they are errors.
        tell: Takes the lines of information, on rank zero.
    """
    modules = every_module(module)
    reshard(modules)
    tree = Tree(module)
    run = Run(tree, settings, storage or Storage(), init_cfg)
    shapes = ExitStack()

    def prepare() -> InitPlan:
        shapes.enter_context(unflattened(modules))
        if not alone:
            run.storage.blank |= left_out(tree)
        plan = make_plan(
            tree,
            init_cfg=init_cfg,
            label=label,
            alone=alone,
            with_method=with_method,
            open_checkpoint=run.open_checkpoint,
        )
        run.admit(plan)
        return plan

    def begin() -> int:
        # A warning may be an error, by the filters of this process.
        warn(run.ledger.warnings)
        return draw_seed() if settings.seed is None else settings.seed

    with shapes, run.closing():
        plan = distributed.together("the plan", prepare)
        if distributed.world_size() > 1:
            # Ranks may have different numbers of cores.
            alike = vars(replace(settings, threads=None))
            asked = {f"the argument {name!r}": repr(value) for name, value in alike.items()}
            distributed.agree("the plan", {**plan.signature(), **asked}, _plans_differ)
        run.seed = distributed.from_rank_zero("the seed", begin)
        distributed.together("the initialisation", lambda: run.run(plan))
        if distributed.world_size() > 1:
            found, shares = distributed.together("the comparison of weights", run.digests)
            distributed.agree("the weights", found, _weights_differ, shares)
        report = run.report()
    if distributed.rank() == 0:
        for note in report.notes:
            tell(note)
    return report


def _skip(told: str) -> None:
    """Nothing is done, if all ranks say so."""
    distributed.together("nothing, since is_init is True", lambda: warn([told]))


def _plans_differ(names: list[str]) -> str:
    return (
        f"the plan of the initialisation differs between ranks for {some(names, 10)}; give every rank the same model "
        f"and the same config"
    )


def _weights_differ(names: list[str]) -> str:
    return (
        f"ranks hold different weights after the initialisation: {some(names, 10)}; an init_weights that depends on "
        f"the rank, or on values that the constructors drew from differently seeded generators, does this "
        f"(seed_everything helps against the latter); so do CPUs with different vector units, for orthogonal and "
        f"truncated normal weights"
    )
