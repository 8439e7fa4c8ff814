"""What keeps a plan from being executed on the module as it is now."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from lightning_init.errors import Fault
from lightning_init.initializers.fill import obstacle_of_placement
from lightning_init.plan import InitPlan
from lightning_init.rng import Stream
from lightning_init.settings import Settings
from lightning_init.sharding import is_sharded
from lightning_init.slot import Slot
from lightning_init.steps import Call, Claim, Fill, Load
from lightning_init.values import trial

__all__ = ["refusals"]

_META = (
    "is on the meta device, without storage: materialise it first, with to_empty(device=...), or leave that to "
    "InitWeightsCallback"
)


def refusals(plan: InitPlan, settings: Settings, *, gets_storage: bool, is_part: bool) -> list[Fault]:
    """The faults that only the settings, or a look at the tensors, show.

    Args:
        plan: The plan.
        settings: How it would be run.
        gets_storage: Tensors on ``meta`` are given storage before.
        is_part: It is that of a part, from within a method; what stays untouched shows only at the end.
    """
    faults = list(plan.warnings) if settings.strict else []
    if settings.require_all:
        untouched = [] if is_part else plan.untouched()
        faults += [Fault(name, "no rule writes it (require_all)") for name in untouched]
        faults += [Fault(key, "nothing takes this key (require_all)") for key in plan.unexpected()]
    unusual = [claim for claim in plan.executed.claims(plan.steps) if not _is_usual(claim.slot)]
    faults += filter(None, (_unwritable(claim, gets_storage=gets_storage) for claim in unusual))
    if not gets_storage:
        faults += [fault for call in plan.calls for fault in _lost(call, plan)]
    return faults


def _lost(call: Call, plan: InitPlan) -> Iterator[Fault]:
    """What a method would write in vain."""
    lost = [slot.name for slot in call.covers if slot.is_meta and slot not in plan.kept]
    if lost:
        yield Fault(call.source, f"{min(lost)!r} {_META}")


def _is_usual(slot: Slot) -> bool:
    """It is a parameter with storage, and nothing else."""
    if slot.parts:
        return False
    tensor = slot.tensor
    return type(tensor) is nn.Parameter and not tensor.is_meta


def _unwritable(claim: Claim, *, gets_storage: bool) -> Fault | None:
    """What keeps a claim from being written to the module as it is now."""
    slot = claim.slot
    tensors = slot.tensors
    is_meta = any(tensor.is_meta for tensor in tensors)
    reason = next(filter(None, map(obstacle_of_placement, tensors)), None)
    if not reason and is_meta and not gets_storage:
        return Fault(claim.source, f"{slot.name!r} {_META}")
    if not reason and slot.parts and not (isinstance(claim, Load) and claim.part):
        if any(map(is_sharded, tensors)):
            reason = (
                "it is parametrized, and what it is computed from is spread over ranks: initialise it before it is "
                "sharded"
            )
        elif not is_meta:
            reason = trial(slot, partial(_fill, claim) if isinstance(claim, Fill) else None)
    return Fault(claim.source, f"cannot write {slot.name!r}: {reason}") if reason else None


def _fill(claim: Fill, tensor: Tensor) -> None:
    # Of any seed: what matters of the numbers, that they are all zero say, is the law's.
    claim.recipe.write(tensor, Stream(0, claim.slot.key, tensor.device))
