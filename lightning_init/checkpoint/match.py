"""What goes where: the tensors of a checkpoint against those of a module, by name and shape, no values read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.keys import Keys, some
from lightning_init.errors import CheckpointError, Fault
from lightning_init.text import columns

__all__ = ["Match", "Mismatch", "OnMismatch", "Target", "match"]

OnMismatch: TypeAlias = Literal["error", "skip"]


@dataclass(frozen=True)
class Target:
    """A parameter or persistent buffer that a checkpoint may fill.

    Attributes:
        name: Its name, relative to the module that is loaded into.
        aliases: Its other names, where it is tied.
        shape: Its shape.
        dtype: The type of its elements.
        is_buffer: It is a buffer.
        parts: The tensors that it is computed from, where it is parametrized. They are filled instead of it if the
            checkpoint has them, and not it.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_buffer: bool
    parts: tuple[Target, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All its names."""
        return (self.name, *self.aliases)


class Mismatch(NamedTuple):
    """A key and a target of the same name and of different shapes."""

    name: str
    key: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """What a checkpoint fills in a module.

    Attributes:
        source: The checkpoint's name.
        prefix: The prefix that was asked for, with its dot, or an empty string.
        loaded: The key of each target (or part of a parametrized one) that is filled, by its name.
        missing: Names of the targets that no key stands for.
        unexpected: Keys (below the prefix) that nothing takes.
        mismatched: Pairs that are skipped because their shapes differ.
    """

    source: str
    prefix: str
    loaded: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    def summary(self) -> str:
        """How many there are of each, in one line."""
        below = f" below {self.prefix!r}" if self.prefix else ""
        others = {"missing": self.missing, "unexpected": self.unexpected, "mismatched": self.mismatched}
        counts = [f"{len(self.loaded)} loaded", *(f"{len(names)} {kind}" for kind, names in others.items() if names)]
        return f"{self.source}{below}: {', '.join(counts)}"

    def table(self, limit: int = 20) -> str:
        """What did not fit, and what was loaded from a key of another name, in aligned plain text under the summary.

        Args:
            limit: How many lines each of the four kinds gets at most; the rest is counted.
        """
        kinds: dict[str, list[tuple[str, str]]] = {
            "mismatched": [(m.name, f"{m.key} {m.found}, wanted {m.wanted}") for m in self.mismatched],
            "missing": [(name, "") for name in self.missing],
            "unexpected": [("", key) for key in self.unexpected],
            "loaded": [(name, key) for name, key in self.loaded.items() if name != key],
        }
        rows = [("state", "parameter", "key")]
        for kind, pairs in kinds.items():
            rows += [(kind, name or "-", key or "-") for name, key in pairs[:limit]]
            if len(pairs) > limit:
                rows.append((kind, f"... and {len(pairs) - limit} more", ""))
        return f"{self.summary()}\n{columns(rows)}"


def match(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    *,
    prefix: str | None = None,
    on_mismatch: OnMismatch = "error",
    strict: bool = False,
) -> Match:
    """Finds the key of every target.

    Keys are taken as they are where they fit, else without wrapper parts (see `Keys`). A target with several names
    takes the key of the last that has one, as ``load_state_dict`` does; the keys of the others count as taken.

    Args:
        checkpoint: Only its names and shapes are used.
        targets: What may be filled.
        prefix: Which part of the checkpoint to take, with or without the dot at its end.
        on_mismatch: ``"skip"`` leaves a target alone whose key has another shape; ``"error"`` raises.
        strict: Keys (below the prefix) and parameters must agree one to one. Buffers may take keys, and may lack
            them, since checkpoints often leave counters out; that is told, not an error.

    Raises:
        CheckpointError: The prefix does not exist, no key fits, shapes differ, several keys stand for one name, complex
            numbers would go into a real tensor, or ``strict`` is not fulfilled: all that applies.
    """
    keys = Keys(checkpoint.entries, prefix, checkpoint.source)
    targets = [chosen for target in targets for chosen in _chosen(target, keys)]
    taken, faults = _assign(keys, targets, checkpoint)
    loaded: dict[str, str] = {}
    missing: list[Target] = []
    mismatched: list[Mismatch] = []
    for target in targets:
        key = next((taken[name] for name in reversed(target.names) if name in taken), None)
        if key is None:
            missing.append(target)
            continue
        entry = checkpoint.entries[key]
        if entry.shape != target.shape:
            mismatched.append(Mismatch(target.name, key, entry.shape, target.shape))
        elif entry.dtype.is_complex and not target.dtype.is_complex:
            faults.append(_fault(f"{key!r} of {checkpoint.source!r} holds complex numbers, {target.name!r} real ones"))
        else:
            loaded[target.name] = key
    used = set(taken.values())
    unexpected = tuple(key for key in keys.below if key not in used)
    found = Match(checkpoint.source, keys.prefix, loaded, tuple(t.name for t in missing), unexpected, tuple(mismatched))
    if not loaded and not faults and (not mismatched or on_mismatch == "skip"):
        raise CheckpointError([_fault(_nothing(found, keys, targets))])
    if mismatched and (on_mismatch == "error" or strict):
        faults.append(Fault("strict" if on_mismatch == "skip" else "on_mismatch", _shapes(found, on_mismatch)))
    lacking = [target.name for target in missing if not target.is_buffer]
    if strict and (lacking or unexpected):
        faults.append(Fault("strict", _strict(found, lacking)))
    if faults:
        raise CheckpointError(faults)
    return found


def _chosen(target: Target, keys: Keys) -> Sequence[Target]:
    """A target, or the parts of a parametrized one where the checkpoint has these alone."""
    whole = any(keys.candidates(name) for name in target.names)
    if not whole and any(keys.candidates(part.name) for part in target.parts):
        return target.parts
    return (target,)


def _assign(keys: Keys, targets: Sequence[Target], checkpoint: Checkpoint) -> tuple[dict[str, str], list[Fault]]:
    """The key of each name. A key that stands for two names goes to the one that leaves most of it."""
    claims: list[tuple[int, str, str]] = []
    faults: list[Fault] = []
    for target in targets:
        for name in target.names:
            found = keys.candidates(name)
            if len(found) > 1:
                faults.append(
                    _fault(f"the keys {some(found)} of {checkpoint.source!r} all stand for {name!r}; keep one of them")
                )
            claims += [(keys.removed(key, name), key, name) for key in found]
    owner: dict[str, str] = {}
    for _, key, name in sorted(claims):
        owner.setdefault(key, name)
    return {name: key for key, name in owner.items()}, faults


def _nothing(found: Match, keys: Keys, targets: Sequence[Target]) -> str:
    if not targets:
        return f"there is no parameter or persistent buffer that {found.source!r} could fill"
    told = (
        f"no key of {found.source!r} fits; it has {some(keys.below, 5)}, the module has "
        f"{some((target.name for target in targets), 5)}"
    )
    if found.mismatched:
        return f"{told}; by name they match, but not in shape{_lines(found)}"
    hint = keys.hint([name for target in targets for name in target.names])
    return f"{told}; {hint}" if hint else told


def _shapes(found: Match, on_mismatch: OnMismatch) -> str:
    remedy = "" if on_mismatch == "skip" else "; on_mismatch='skip' leaves them to the other rules"
    return (
        f"keys of {found.source!r} with another shape than the module's: {len(found.mismatched)}{remedy}{_lines(found)}"
    )


def _lines(found: Match) -> str:
    return "".join(
        f"\n      {m.name!r}: {m.found} in the checkpoint (key {m.key!r}), {m.wanted} in the module"
        for m in found.mismatched
    )


def _strict(found: Match, lacking: Sequence[str]) -> str:
    told = []
    if lacking:
        told.append(f"parameters without a key: {some(lacking, 20)}")
    if found.unexpected:
        told.append(f"keys without a parameter: {some(found.unexpected, 20)}")
    return f"{found.source!r} and the module must agree one to one; {'; '.join(told)}"


def _fault(what: str) -> Fault:
    return Fault("checkpoint", what)
