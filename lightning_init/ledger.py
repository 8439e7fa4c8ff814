"""Who wrote what: the book of an initialisation, from which its report is made."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from torch import nn

from lightning_init import distributed
from lightning_init.digests import digest
from lightning_init.errors import Fault, InitConfigError, InitWarning
from lightning_init.garbage import uncollected
from lightning_init.plan import InitPlan
from lightning_init.report import Coverage, Expected, InitReport, Row
from lightning_init.report.roles import is_scale, padding, units
from lightning_init.settings import Settings
from lightning_init.sharding import described, is_copied, is_sharded
from lightning_init.slot import Slot
from lightning_init.steps import Fill, LoadStep
from lightning_init.text import some
from lightning_init.tree import Node, Tree
from lightning_init.wrappers import class_name

__all__ = ["Ledger", "Written", "warn"]


@dataclass(frozen=True)
class Written:
    """Who wrote a parameter last.

    Attributes:
        source: Where it was declared, or the method; None for nobody.
        initializer: The declared initializer with its arguments.
        expected: What its law says.
        is_random: The initializer draws random numbers.
    """

    source: str | None
    initializer: str | None = None
    expected: Expected | None = None
    is_random: bool = False

    @classmethod
    def by_rule(cls, claim: Fill) -> Written:
        """A rule has filled a slot."""
        slot, recipe = claim.slot, claim.recipe
        # What a parametrization makes of the numbers, nobody knows.
        law = None if slot.parts else recipe.expected(slot.shape)
        return cls(claim.source, recipe.what, Expected.of(law), recipe.is_random(slot.shape))


_BY_NOBODY = Written(None)


@dataclass
class Ledger:
    """What has happened so far. Parameters are known by their names.

    Attributes:
        settings: How the initialisation is run.
        written: Who wrote a parameter last; a claim where that was a rule.
        kept: The places of the rules that protect parameters.
        elsewhere: The libraries that had filled parameters.
        loaded: The places of the rules whose checkpoint a parameter holds now.
        overwrites: The places of the rules whose checkpoint, or the libraries whose weights, were written over.
        samples: Of parameters that are spread over ranks and were loaded, some values in the file, as a digest.
        loads: The checkpoints that were read.
        warnings: What is probably not meant.
        notes: What the user may want to know.
    """

    settings: Settings
    written: dict[str, Written | Fill] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    overwrites: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    loads: list[LoadStep] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take_plan(self, plan: InitPlan) -> list[str]:
        """Takes what a plan says besides its steps.

        Returns:
            The warnings that are new; a part may be planned anew.
        """
        fresh = [told for told in map(str, plan.warnings) if told not in self.warnings]
        self.warnings += fresh
        self.notes += [note for note in plan.notes if note not in self.notes]
        self.kept.update({slot.name: where for slot, where in plan.kept.items()})
        self.elsewhere.update({slot.name: by for slot, by in plan.elsewhere.items()})
        self.overwrites.update({slot.name: by for slot, by in plan.overwrites.items()})
        return fresh

    def filled(self, claim: Fill) -> None:
        """A rule filled a parameter."""
        name = claim.slot.name
        self.loaded.pop(name, None)
        self.written[name] = claim

    def read(self, step: LoadStep, names: Iterable[tuple[str, str]]) -> None:
        """A checkpoint was loaded into parameters, given with the initializer that says so."""
        self.loads.append(step)
        for name, what in names:
            self.written[name] = Written(step.source, what)
            self.loaded[name] = step.source
        told = [*step.checkpoint.notes, step.match.told()]
        self.notes += [f"{step.source}: {line}" for line in told]

    def written_by_method(self, source: str, names: Iterable[str]) -> None:
        """A module's own method wrote parameters.

        Raises:
            InitConfigError: Under ``strict``: they held a checkpoint's weights, or are protected.
        """
        over: dict[str, list[str]] = {}
        for name in names:
            before = self.loaded.pop(name, None)
            if before is not None:
                over.setdefault(f"over weights that the checkpoint of {before} loaded", []).append(name)
            if before or name in self.elsewhere:
                self.overwrites[name] = before or self.elsewhere[name]
            if name in self.kept:
                keeper = f"what {self.kept[name]} keeps from rules and checkpoints, but not from code"
                over.setdefault(keeper, []).append(name)
            self.written[name] = Written(source)
        told = [f"{source} writes {what}: {some(found)}" for what, found in over.items()]
        if told and self.settings.strict:
            raise InitConfigError([Fault("", line) for line in told])
        self.warnings += told
        warn(told)

    def digests(self, tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
        """A digest of every parameter that was written.

        Returns:
            What is the same on all ranks, by name; and the shares of those that are spread over ranks, each with the
            indices that it is made of, so that only replicas are compared. A share of which there is no replica is not
            looked at.
        """
        whole: dict[str, str] = {}
        shares: dict[str, str] = {}
        for slot in sorted(tree.slots, key=lambda slot: slot.name):
            if slot.name not in self.written:
                continue
            if not any(map(is_sharded, slot.tensors)):
                whole[slot.name] = digest(slot.tensors)
                continue
            whole[slot.name] = " ".join(filter(None, ["spread over ranks", self.samples.get(slot.name)]))
            if any(map(is_copied, slot.tensors)):
                held = "; ".join(described(tensor) for tensor in slot.tensors)
                shares[f"{slot.name}[{held}]"] = digest(slot.tensors)
        return whole, shares

    @uncollected()
    def report(self, tree: Tree, seed: int | None, at: Node | None = None) -> InitReport:
        """The report of a tree, or of the part of it at a module.

        Raises:
            InitConfigError: Nothing wrote a parameter of the tree, which ``require_all`` forbids; methods can be
                judged only now.
        """
        slots = [slot for slot in (tree.slots if at is None else tree.part(at)) if not slot.is_buffer]
        names = [slot.name for slot in slots]
        like = self._rows(slots)
        untouched = [name for name, row in zip(names, like, strict=True) if row.source is None and not row.kept_by]
        if at is None and self.settings.require_all and untouched:
            raise InitConfigError([Fault(name, "nothing wrote it (require_all)") for name in untouched])
        notes = list(self.notes)
        if untouched:
            told = "parameters keep their constructor's values, no rule writes them"
            notes.append(f"{len(untouched)} {told}: {some(untouched, 10)}")
        module: nn.Module = (tree.root if at is None else at).module
        checkpoints = [_coverage(step) for step in self.loads]
        # Of a large model it takes longer to make the rows than to draw small tensors.
        rows = partial(_named, like, names)
        return InitReport(module, rows, checkpoints=checkpoints, warnings=self.warnings, notes=notes, seed=seed)

    def _rows(self, slots: Iterable[Slot]) -> list[Row]:
        """The rows of slots, up to their names. Most slots are of a few kinds, and one row serves all of a kind."""
        rows: list[Row] = []
        kinds: dict[tuple[object, ...], Row] = {}
        special = {*self.kept, *self.elsewhere, *self.overwrites}
        for slot in slots:
            name = slot.name
            by = self.written.get(name, _BY_NOBODY)
            kind = None if name in special else _kind(slot, by)
            row = kinds.get(kind) if kind else None
            if row is None:
                row = self._row(slot, by)
                if kind:
                    kinds[kind] = row
            rows.append(row)
        return rows

    def _row(self, slot: Slot, by: Written | Fill) -> Row:
        name, tensors = slot.name, slot.tensors
        written = Written.by_rule(by) if isinstance(by, Fill) else by
        is_written = written is not _BY_NOBODY
        return Row(
            name,
            slot.aliases,
            slot.shape,
            slot.dtype,
            device=_device_name(tensors[0].device),
            trainable=tensors[0].requires_grad or slot.is_trainable,
            layer=class_name(slot.places[0][0]),
            initializer=written.initializer,
            is_random=written.is_random,
            source=written.source,
            expected=written.expected,
            kept_by=self.kept.get(name) or (None if is_written else self.elsewhere.get(name)),
            overwrites=self.overwrites.get(name) if is_written else None,
            units=units(slot),
            is_scale=is_scale(slot),
            padding=padding(slot),
        )


# What a row says of their parameters depends on the class, not on the module.
_ALIKE = (
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)


def _named(like: Iterable[Row], names: Iterable[str]) -> Iterator[Row]:
    for row, name in zip(like, names, strict=True):
        yield row if row.name == name else row.named(name)


def _kind(slot: Slot, by: Written | Fill) -> tuple[object, ...] | None:
    """What makes the row of a slot, but for its name; None if there is more to it."""
    module, attribute = slot.places[0]
    if type(module) not in _ALIKE or len(slot.names) > 1 or slot.parts:
        return None
    tensor = slot.tensor
    # By identity: all weights that one rule wrote have the same recipe.
    writer = by.recipe if isinstance(by, Fill) else by
    return type(module), attribute, slot.shape, slot.dtype, tensor.device, tensor.requires_grad, id(writer)


@lru_cache(maxsize=64)
def _device_name(device: torch.device) -> str:
    return str(device)


def _coverage(step: LoadStep) -> Coverage:
    match = step.match

    def names(found: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.slots[name][0].name for name in found))

    lacking = names([*match.missing, *(it.name for it in match.mismatched), *match.dropped])
    return Coverage(step.source, match.source, names(match.loaded), lacking, match.unexpected)


def warn(told: Sequence[str]) -> None:
    """One warning that lists everything, on rank zero."""
    if told and distributed.rank() == 0:
        frame, level = sys._getframe(), 1  # noqa: SLF001 - the way to the user's line, whatever the depth
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
            frame, level = frame.f_back, level + 1
        lines = told if len(told) == 1 else [f"{len(told)} things that are probably not meant:", *told]
        warnings.warn("\n  - ".join(lines), InitWarning, stacklevel=level)
