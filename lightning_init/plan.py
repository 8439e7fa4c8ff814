"""What an initialisation will do, as data that can be read, printed and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from lightning_init.errors import Fault
from lightning_init.once import once
from lightning_init.settling import Executed
from lightning_init.slot import Slot
from lightning_init.steps import Call, Claim, Done, Load, LoadStep, Step, claims_of, flat
from lightning_init.text import Legend, columns

__all__ = ["InitPlan", "PlanEntry", "PlannedClaim"]


@dataclass(frozen=True)
class PlannedClaim:
    """One writer of a parameter.

    Attributes:
        source: Where it was declared, or the method that may write.
        what: The declared initializer with its arguments.
        certain: It will write, unless a later one does; a method only may.
        executed: Its numbers are really made, because nothing later replaces them unread.
        key: The key of a checkpoint that it takes, and what is done to the values on the way; empty for others.
    """

    source: str
    what: str
    certain: bool
    executed: bool
    key: str = ""


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
        kept_by: What protects it, if anything does: a ``Keep`` rule, or the library that has filled it and that no
            rule reaches by ``name``.
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


@dataclass(frozen=True, eq=False)
class InitPlan:
    """The plan of an initialisation; ``print(plan)`` explains every winner and loser.

    Attributes:
        warnings: What is probably not meant; errors under ``strict=True``.
        notes: What the user may want to know.
    """

    warnings: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    slots: Sequence[Slot] = ()
    steps: Sequence[Step] = ()
    executed: Executed = field(default_factory=Executed)
    kept: dict[Slot, str] = field(default_factory=dict)
    elsewhere: dict[Slot, str] = field(default_factory=dict)
    overwrites: dict[Slot, str] = field(default_factory=dict)

    @once
    def entries(self) -> tuple[PlanEntry, ...]:
        """One for each distinct parameter and persistent buffer; made when they are first asked for."""
        return _entries(self)

    def __eq__(self, other: object) -> bool:
        """They say the same of all that is planned, of whichever module."""
        return isinstance(other, InitPlan) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)

    def __repr__(self) -> str:
        return f"<InitPlan of {len(self.slots)} parameters and buffers>"

    @property
    def _said(self) -> tuple[tuple[PlanEntry, ...], tuple[Fault, ...], tuple[str, ...]]:
        return self.entries, self.warnings, self.notes

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
        return claims_of(flat(self.steps))

    @property
    def calls(self) -> list[Call]:
        """The methods that are called, nested ones included."""
        return [step for step in flat(self.steps) if isinstance(step, Call)]

    @property
    def load_steps(self) -> list[LoadStep]:
        """The checkpoints that are read, nested ones included."""
        return [step for step in flat(self.steps) if isinstance(step, LoadStep)]

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

    def overview(self) -> tuple[list[tuple[str, ...]], Legend]:
        """The rows (the header first) as a table, and the legend to the numbers in it."""
        legend = Legend()
        rows: list[tuple[str, ...]] = [("parameter", "shape", "written by", "instead of")]
        for entry in self.entries:
            if entry.is_buffer and not entry.claims:
                continue
            name = " = ".join((entry.name, *entry.aliases))
            shape = "x".join(map(str, entry.shape)) or "scalar"
            rows.append((name, shape, _winner(entry, legend), _losers(entry, legend)))
        return rows, legend

    def told(self) -> list[str]:
        """What there is to say besides the table, a line each: warnings, then notes."""
        told = [f"warning: {fault}" for fault in self.warnings] + [f"note: {note}" for note in self.notes]
        told += [f"note: {step.source}: {step.match.summary()}" for step in self.load_steps]
        if any(_is_made_in_vain(claim) for entry in self.entries for claim in _before(entry)):
            told.append("(run): these numbers are made all the same, since a method may read them")
        return told

    def __str__(self) -> str:
        rows, legend = self.overview()
        return "\n".join([columns(rows), *filter(None, [str(legend)]), *self.told()])


def _entries(plan: InitPlan) -> tuple[PlanEntry, ...]:
    # One object for all slots that one rule writes; a dict for each slot, since many rules may write it.
    made: dict[tuple[object, ...], PlannedClaim] = {}
    executed = set(plan.executed.claims(plan.steps))
    claims: dict[Slot, dict[object, PlannedClaim]] = {slot: {} for slot in plan.slots}

    def collect(level: Sequence[Step], *, certain: bool) -> None:
        for step in level:
            if isinstance(step, Call):
                if step.nested is not None:
                    collect(step.nested, certain=False)
                called = PlannedClaim(step.source, "init_weights", certain=False, executed=True)
                for slot in step.covers:
                    claims[slot][step] = called
            elif not isinstance(step, Done):
                for claim in step.claims:
                    key = claim.key if isinstance(claim, Load) else ""
                    told = claim.source, claim.what, certain, claim in executed, key
                    if told not in made:
                        made[told] = PlannedClaim(*told)
                    claims[claim.slot].setdefault(told, made[told])

    def kept_by(slot: Slot) -> str | None:
        written = any(claim.certain for claim in claims[slot].values())
        return plan.kept.get(slot) or (None if written else plan.elsewhere.get(slot))

    protected = plan.kept or plan.elsewhere
    collect(plan.steps, certain=True)
    return tuple(
        PlanEntry(
            slot.name,
            slot.aliases,
            slot.shape,
            slot.dtype,
            slot.is_buffer,
            tuple(found.values()),
            kept_by(slot) if protected else None,
        )
        for slot, found in claims.items()
    )


def _winner(entry: PlanEntry, legend: Legend) -> str:
    """Who writes last, and the methods that may write after it."""
    winner = entry.winner
    after = entry.claims[entry.claims.index(winner) + 1 :] if winner else entry.claims
    nobody = f"kept by {entry.kept_by}" if entry.kept_by else "nobody, constructor's values"
    told = legend.number(winner.source, winner.what) if winner else nobody
    if winner and winner.key:
        told += f" {winner.key}"
    methods = [legend.number(claim.source, claim.what) for claim in after]
    return " then perhaps ".join([told, *methods])


def _losers(entry: PlanEntry, legend: Legend) -> str:
    """Who would have written before, the last one first; marked what runs all the same, for a method to read."""
    return ", ".join(
        f"{legend.number(claim.source, claim.what)}{' (run)' if _is_made_in_vain(claim) else ''}"
        for claim in reversed(_before(entry))
    )


def _before(entry: PlanEntry) -> tuple[PlannedClaim, ...]:
    winner = entry.winner
    return entry.claims[: entry.claims.index(winner)] if winner else ()


def _is_made_in_vain(claim: PlannedClaim) -> bool:
    return claim.certain and claim.executed
