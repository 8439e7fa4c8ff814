"""Which claims are executed: the last one on each slot, and what a method may read before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_init.slot import Slot
from lightning_init.steps import Call, Claim, Fill, FillStep, Load, LoadStep, Step, flat

__all__ = ["Executed", "settle"]


@dataclass(frozen=True)
class Executed:
    """The claims that are executed, by their steps.

    Attributes:
        fills: Those of rules.
        loads: Those of checkpoints.
    """

    fills: Mapping[FillStep, Sequence[Fill]] = field(default_factory=dict)
    loads: Mapping[LoadStep, Sequence[Load]] = field(default_factory=dict)

    def claims(self, steps: Sequence[Step]) -> Iterator[Claim]:
        """All of them in writing order, with those of nested steps."""
        for step in flat(steps):
            if isinstance(step, FillStep):
                yield from self.fills[step]
            elif isinstance(step, LoadStep):
                yield from self.loads[step]


def settle(steps: Sequence[Step]) -> Executed:
    """Finds the claims that have to be executed.

    Args:
        steps: The steps of one level; nested ones are settled for themselves, since the method around them may read
            what they leave.
    """
    fills: dict[FillStep, Sequence[Fill]] = {}
    loads: dict[LoadStep, Sequence[Load]] = {}
    later = _Later()
    for step in reversed(steps):
        if isinstance(step, Call):
            later.whole -= step.covers
            later.parts -= {name for slot in step.covers for name in slot.parts}
            if step.nested is not None:
                nested = settle(step.nested)
                fills.update(nested.fills)
                loads.update(nested.loads)
        elif isinstance(step, FillStep):
            fills[step] = [claim for claim in reversed(step.claims) if later.lacks(claim.slot)][::-1]
        elif isinstance(step, LoadStep):
            loads[step] = [claim for claim in reversed(step.claims) if later.lacks(claim.slot, claim.part)][::-1]
    return Executed(fills, loads)


@dataclass
class _Later:
    """What later steps write, seen from a point in the order."""

    whole: set[Slot] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)

    def lacks(self, slot: Slot, part: str | None = None) -> bool:
        """Whether nothing later writes all of a slot, or this part of it; from here on something does."""
        if slot in self.whole or (slot.parts and self.parts.issuperset(slot.parts)):
            return False
        if part is None:
            self.whole.add(slot)
            return True
        is_new = part not in self.parts
        self.parts.add(part)
        return is_new
