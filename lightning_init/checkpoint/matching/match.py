"""Finds what goes where: the tensors of a checkpoint against those of a module, by name and shape, no values read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.matching import complaints
from lightning_init.checkpoint.matching.adapt import adapt, chosen_adapters
from lightning_init.checkpoint.matching.adapters import Adapter, Misfit
from lightning_init.checkpoint.matching.conversion import loss
from lightning_init.checkpoint.matching.keys import Keys
from lightning_init.checkpoint.matching.matched import Adapted, Match, Mismatch
from lightning_init.checkpoint.matching.places import Place, Places, inside
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import CheckpointError, Fault

__all__ = ["OnMismatch", "match"]

OnMismatch: TypeAlias = Literal["error", "skip", "adapt"]

_ALL = KeyRules()


def match(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    rules: KeyRules = _ALL,
    *,
    on_mismatch: OnMismatch = "error",
    adapters: Sequence[str] | None = None,
    min_match: float | None = None,
    strict: bool = False,
) -> Match:
    """Finds the key of every target.

    Keys are taken as they are where they fit, else without wrapper parts (see `Keys`). A target with several names
    takes the key of the last that has one, as ``load_state_dict`` does; the keys of the others count as taken.

    Args:
        checkpoint: Only its names, shapes and types are used.
        targets: What may be filled, in the order of registration.
        rules: Which keys are meant, what they are called, and where they go.
        on_mismatch: What becomes of a target whose key has another shape: ``"error"`` raises, ``"skip"`` leaves it
            alone, ``"adapt"`` asks the adapters and raises where none of them takes it.
        adapters: Whom to ask, by name and in this order; None for all, those of users first.
        min_match: Which fraction of the parameters in question, each counted once, must be filled; None for more than
            none of them.
        strict: Keys and parameters in question must agree one to one. Buffers may take keys, and may lack them, since
            checkpoints often leave counters out; that is told, not an error.

    Raises:
        CheckpointError: The prefix or ``into`` does not exist, no key fits, shapes differ, several keys stand for one
            name, a pattern matches nothing, types do not go together, or ``min_match`` or ``strict`` is not fulfilled:
            all that applies.
    """
    asked = chosen_adapters(adapters) if on_mismatch == "adapt" else None
    keys, places = _opened(checkpoint, targets, rules)
    found = Places(places, keys, rules, checkpoint.source)
    fits = _Fits(checkpoint, found, tuple(place.target for place in places), asked)
    result = fits.result(rules, keys)
    faults = [*found.faults, *fits.faults]
    if not result.loaded and not faults and not fits.refused and (on_mismatch != "error" or not result.mismatched):
        raise CheckpointError([Fault("checkpoint", complaints.nothing(result, keys, places, found.wanted))])
    if result.mismatched and (on_mismatch == "error" or strict):
        is_strict = on_mismatch == "skip"
        told = complaints.other_shapes(result, strict=is_strict)
        faults.append(Fault("strict" if is_strict else "on_mismatch", told))
    if fits.refused:
        faults.append(Fault("on_mismatch", complaints.refused(result, fits.refused)))
    if min_match is not None and (told := complaints.too_few(result, keys, found.wanted, min_match)):
        faults.append(Fault("min_match", told))
    if strict and (told := complaints.unlike(result, fits.lacking)):
        faults.append(Fault("strict", told))
    if faults:
        raise CheckpointError(faults)
    return result


def _opened(checkpoint: Checkpoint, targets: Sequence[Target], rules: KeyRules) -> tuple[Keys, list[Place]]:
    """The keys and the targets that the rules speak of; what is wrong with either is told together."""
    try:
        keys = Keys(checkpoint.entries, rules, checkpoint.source)
    except CheckpointError as error:
        try:
            inside(targets, rules.into)
        except CheckpointError as other:
            raise CheckpointError([*error.faults, *other.faults]) from None
        raise
    return keys, inside(targets, rules.into)


class _Fits:
    """What becomes of every target that has a key.

    Args:
        checkpoint: Where the keys are.
        found: The keys of the targets.
        context: All targets below ``into``.
        adapters: Whom to ask about a mismatch; None to leave them all alone.
    """

    def __init__(
        self, checkpoint: Checkpoint, found: Places, context: Sequence[Target], adapters: dict[str, Adapter] | None
    ) -> None:
        self._checkpoint, self._found = checkpoint, found
        self._context, self._adapters = context, adapters
        self._entries = {place.target.name: checkpoint.entries[key] for place, key in found.key_of.items()}
        self.loaded: dict[str, str] = {}
        self.converted: dict[str, tuple[torch.dtype, torch.dtype]] = {}
        self.adapted: dict[str, Adapted] = {}
        self.dropped: dict[str, Adapted] = {}
        self.spared: list[str] = []
        self.mismatched: list[Mismatch] = []
        self.refused: list[tuple[Mismatch, Mapping[str, str]]] = []
        self.faults: list[Fault] = []
        for place, key in found.key_of.items():
            if self._has_shape(place, key):
                self._take(place.target, key)

    def _has_shape(self, place: Place, key: str) -> bool:
        """Whether the values have the shape of the target, or are given it."""
        target, entry = place.target, self._checkpoint.entries[key]
        if entry.shape == target.shape:
            return True
        if place.whole.is_spared:
            self.spared.append(key)
            return False
        mismatch = Mismatch(target.name, key, entry.shape, target.shape)
        if self._adapters is None:
            self.mismatched.append(mismatch)
            return False
        misfit = Misfit(key, entry, target, place.position, self._context, self._entries)
        answer = adapt(misfit, self._adapters, self._checkpoint.source)
        if not isinstance(answer, Adapted):
            self.refused.append((mismatch, answer))
            return False
        (self.dropped if answer.adaptation.drop else self.adapted)[target.name] = answer
        return not answer.adaptation.drop

    def _take(self, target: Target, key: str) -> None:
        entry = self._checkpoint.entries[key]
        wrong = loss(entry, target)
        if wrong:
            self.faults.append(Fault("checkpoint", f"{key!r} of {self._checkpoint.source!r} {wrong}"))
            return
        self.loaded[target.name] = key
        if entry.dtype != target.dtype:
            self.converted[target.name] = (entry.dtype, target.dtype)

    @property
    def lacking(self) -> list[str]:
        """The parameters in question that have no key."""
        places = (place for place in self._found.wanted if place not in self._found.key_of)
        return [place.target.name for place in places if not place.target.is_buffer]

    def result(self, rules: KeyRules, keys: Keys) -> Match:
        """All of it."""
        found = self._found
        return Match(
            source=self._checkpoint.source,
            prefix=rules.prefix,
            loaded=self.loaded,
            missing=tuple(place.target.name for place in found.wanted if place not in found.key_of),
            unexpected=found.unexpected,
            mismatched=tuple(self.mismatched),
            into=rules.into,
            adapted=self.adapted,
            dropped=self.dropped,
            converted=self.converted,
            excluded=(*found.excluded, *self.spared),
            names={key: name for key, name in keys.names.items() if key != name},
            warnings=keys.warnings,
        )
