"""A dry run of ``Pretrained``: what would be loaded, key by key, without a value being read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from lightning_init import tree
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.matching.conversion import type_name
from lightning_init.checkpoint.matching.keys import Keys
from lightning_init.checkpoint.matching.matched import Match
from lightning_init.checkpoint.matching.places import idle
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.checkpoint.slots import targets
from lightning_init.errors import Fault, InitConfigError, did_you_mean
from lightning_init.text import columns

__all__ = ["InspectedKey", "Inspection", "inspect", "offered"]


@dataclass(frozen=True)
class InspectedKey:
    """One tensor of a checkpoint.

    Attributes:
        key: What the checkpoint calls it.
        shape: Its shape there.
        dtype: Its type there.
        state: ``"loaded"``; or why not: ``"unexpected"`` (nothing is called so), ``"mismatched"`` (another shape),
            ``"dropped"`` (by an adapter), ``"tied"`` (another key of the same parameter is taken), ``"excluded"``,
            ``"outside"`` (not below the prefix). Without a module, ``"offered"`` stands for the first five.
        name: The parameter's name in the module, or the name that the key is offered as; None where it has none.
        detail: What is done to the values on the way, or what is wrong.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    state: str
    name: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a ``Pretrained`` would do; ``print(inspection)`` shows it as a table.

    Attributes:
        source: The checkpoint's name.
        keys: Every tensor of it, in its order.
        missing: The parameters and buffers of the module that no key stands for.
        notes: What else there is to know.
    """

    source: str
    keys: tuple[InspectedKey, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[InspectedKey]:
        return iter(self.keys)

    def __getitem__(self, key: str) -> InspectedKey:
        """The tensor of that key."""
        for found in self.keys:
            if found.key == key:
                return found
        raise KeyError(key)

    def keys_by_name(self) -> dict[str, str]:
        """The keys that have a name in the module, or that are offered under one, by that name."""
        return {it.name: it.key for it in self.keys if it.name is not None}

    def __str__(self) -> str:
        rows = [("key", "shape", "dtype", "state", "name", "")]
        rows += [
            (it.key, "x".join(map(str, it.shape)) or "scalar", type_name(it.dtype), it.state, it.name or "-", it.detail)
            for it in self.keys
        ]
        rows += [("-", "-", "-", "missing", name, "") for name in self.missing]
        return "\n".join([self.source, columns(rows), *(f"note: {note}" for note in self.notes)])


def inspect(checkpoint: str | os.PathLike[str], module: nn.Module | None = None, **arguments: Any) -> Inspection:
    """Shows what a ``Pretrained`` rule would load. It is fetched if need be, but no value is read or written.

    Args:
        checkpoint: A path or an address.
        module: The module that would carry the rule; it may be on ``meta``. Without one, the keys are shown with the
            names that they are offered as.
        **arguments: The other arguments of `PretrainedInit`.

    Raises:
        CheckpointError: As the rule would raise it.
        InitConfigError: Arguments of a wrong type or value.
    """
    _, *known = (field.name for field in fields(PretrainedInit))
    unknown = [
        Fault(name, f"unknown argument of Pretrained; {did_you_mean(name, known)}")
        for name in arguments
        if name not in known
    ]
    if unknown:
        raise InitConfigError(unknown)
    initializer = PretrainedInit(checkpoint, **arguments)
    with initializer.open() as opened:
        if module is None:
            return offered(opened, initializer.key_rules)
        slots = tree.slots(module)
        return _matched(opened, initializer.match(opened, targets(slots)), initializer.key_rules)


def offered(checkpoint: Checkpoint, rules: KeyRules) -> Inspection:
    """What an open checkpoint offers, and under which names, to whatever module.

    Raises:
        CheckpointError: It has no key below the prefix, or several keys have one name.
    """
    keys = Keys(checkpoint.entries, rules, checkpoint.source)
    below = set(keys.below)

    def look(key: str) -> tuple[str, str | None, str]:
        if key not in below:
            return "outside", None, ""
        name = keys.relative(key)
        if not rules.admits(keys.names[key], name):
            return "excluded", None, ""
        return "offered", f"{rules.into}.{name}" if rules.into else name, ""

    found = tuple(InspectedKey(key, entry.shape, entry.dtype, *look(key)) for key, entry in checkpoint.entries.items())
    # An exclude may as well be for a parameter of the module, which is not known here.
    faults = (*keys.warnings, *idle("include", rules.include, keys.called, checkpoint.source))
    return Inspection(checkpoint.source, found, notes=(*checkpoint.notes, *map(str, faults)))


def _matched(checkpoint: Checkpoint, match: Match, rules: KeyRules) -> Inspection:
    below = set(Keys(checkpoint.entries, rules, checkpoint.source).below)
    told: dict[str, tuple[str, str | None, str]] = {
        **dict.fromkeys(match.unexpected, ("unexpected", None, "")),
        **dict.fromkeys(match.excluded, ("excluded", None, "")),
        **{it.key: ("mismatched", it.name, f"wanted {it.wanted}") for it in match.mismatched},
        **{it.mismatch.key: ("dropped", name, it.adaptation.what) for name, it in match.dropped.items()},
        **{key: ("loaded", name, match.detail(name)) for name, key in match.loaded.items()},
    }
    found = tuple(
        InspectedKey(key, entry.shape, entry.dtype, *told.get(key, ("tied" if key in below else "outside", None, "")))
        for key, entry in checkpoint.entries.items()
    )
    notes = (*checkpoint.notes, *map(str, match.warnings))
    return Inspection(checkpoint.source, found, match.missing, notes)
