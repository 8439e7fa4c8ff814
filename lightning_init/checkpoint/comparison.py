"""In what two checkpoints differ, one pair of tensors at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.inspection import offered
from lightning_init.checkpoint.matching.conversion import type_name
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.errors import CheckpointError

__all__ = ["Difference", "Track", "compare"]

_CHUNK = 2**22
"""Elements whose differences are in memory at a time."""

Track: TypeAlias = Callable[[Sequence[str]], Iterable[str]]
"""Hands on what it is given, one after the other, and may show how far it is."""


@dataclass(frozen=True)
class Difference:
    """A name under which two checkpoints do not hold the same bits.

    Attributes:
        name: The name, without the prefix and the parts of wrappers.
        kind: ``"removed"`` (only the first has it), ``"added"`` (only the second), ``"shape"``, ``"dtype"`` or
            ``"values"``.
        before: Its shape and type in the first; empty if it is not there.
        after: The same of the second.
        largest: The largest difference between two elements; NaN if there is a NaN. None where the shapes differ, or
            for elements without differences, such as quantised ones.
    """

    name: str
    kind: str
    before: str = ""
    after: str = ""
    largest: float | None = None


def compare(one: PretrainedInit, other: PretrainedInit, track: Track = iter) -> list[Difference]:
    """Compares what two ``Pretrained`` would load, bit by bit.

    Args:
        one: The first checkpoint.
        other: The second.
        track: Called with the names whose values are going to be compared.

    Returns:
        The differences, in the order of the first checkpoint, what only the second has behind them; empty if both
        hold the same.

    Raises:
        CheckpointError: One of them cannot be read, or none has what is wanted.
    """
    with one.open() as before, other.open() as after:
        keys, others = (
            offered(opened, rule.key_rules).keys_by_name() for opened, rule in ((before, one), (after, other))
        )
        if not keys and not others:
            raise CheckpointError(f"neither {before.source!r} nor {after.source!r} has what is asked for")
        removed = [Difference(name, "removed", _form(before, keys[name])) for name in keys if name not in others]
        added = [Difference(name, "added", after=_form(after, others[name])) for name in others if name not in keys]
        common = [name for name in keys if name in others]
        changed = [found for name in track(common) for found in _changed(name, before, keys[name], after, others[name])]
        order = {name: i for i, name in enumerate(keys)}
        return [*sorted([*removed, *changed], key=lambda found: order[found.name]), *added]


def _form(checkpoint: Checkpoint, key: str) -> str:
    entry = checkpoint.entries[key]
    return f"{'x'.join(map(str, entry.shape)) or 'scalar'} {type_name(entry.dtype)}"


def _changed(name: str, before: Checkpoint, key: str, after: Checkpoint, other: str) -> Iterator[Difference]:
    forms = _form(before, key), _form(after, other)
    one, two = before.entries[key], after.entries[other]
    if one.shape != two.shape:
        yield Difference(name, "shape", *forms)
        return
    values = before.read(key), after.read(other)
    if one.dtype != two.dtype:
        yield Difference(name, "dtype", *forms, _largest(*values))
    elif not _same_bits(*values):
        yield Difference(name, "values", *forms, _largest(*values))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.is_quantized or other.is_quantized:
        return torch.equal(one, other)
    return torch.equal(*(it.contiguous().view(-1).view(torch.uint8) for it in (one, other)))


def _largest(one: Tensor, other: Tensor) -> float | None:
    if one.is_quantized or other.is_quantized:
        return None
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    largest = 0.0
    pairs = zip(one.reshape(-1).split(_CHUNK), other.reshape(-1).split(_CHUNK), strict=True)
    for mine, theirs in pairs:
        if not mine.numel():
            continue
        found = float((mine.to(wide) - theirs.to(wide)).abs().max())
        if math.isnan(found):
            return found
        largest = max(largest, found)
    return largest
