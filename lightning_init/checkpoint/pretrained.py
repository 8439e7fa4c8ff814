"""``Pretrained``: values from a checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_init import tree, values
from lightning_init.checkpoint.base import Checkpoint, Reading, SafeGlobal
from lightning_init.checkpoint.formats import open_checkpoint
from lightning_init.checkpoint.locate import locate
from lightning_init.checkpoint.match import OnMismatch, match
from lightning_init.checkpoint.matched import Match
from lightning_init.checkpoint.rules import KeyRules
from lightning_init.checkpoint.target import Target
from lightning_init.errors import CheckpointError, Fault, InitConfigError
from lightning_init.initializers.base import INITIALIZERS, Initializer, call_text
from lightning_init.initializers.checks import Checks

__all__ = ["PretrainedInit", "copy_", "targets"]

_log = logging.getLogger(__name__)


@INITIALIZERS.register
@dataclass(frozen=True)
class PretrainedInit(Initializer):
    """Loads parameters and persistent buffers from a checkpoint.

    A file of ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``, ``.bin``) or of safetensors; its content tells which. No
    code that a file brings is run, only what ``safe_globals`` allows.

    Args:
        checkpoint: A path, or an address such as ``file:///folder/weights.pth``.
        prefix: Which part of the checkpoint to take, with or without the dot at its end: ``"backbone."`` loads the
            key ``backbone.conv.weight`` as ``conv.weight``.
        map_location: The device over which values go to the parameters, which stay where they are. ``None`` is the
            CPU.
        on_mismatch: What to do about a key whose shape is not its parameter's: ``"error"``, or ``"skip"`` to leave
            that parameter to the other rules.
        strict: Keys (below the prefix) and parameters must agree one to one.
        safe_globals: Classes that a file of ``torch.save`` may hold besides tensors. Allow only what you trust: the
            file decides how they are called.

    Raises:
        InitConfigError: Arguments of a wrong type or value.
    """

    checkpoint: str | os.PathLike[str]
    prefix: str | None = None
    map_location: str | torch.device | None = "cpu"
    on_mismatch: OnMismatch = "error"
    strict: bool = False
    safe_globals: Sequence[SafeGlobal] = ()

    def __post_init__(self) -> None:
        checks = Checks()
        self._check(checks)
        checks.close()
        object.__setattr__(self, "checkpoint", os.fspath(self.checkpoint))
        object.__setattr__(self, "safe_globals", tuple(self.safe_globals))

    def _check(self, checks: Checks) -> None:
        # Configs carry values of any type, whatever the annotations say.
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        checkpoint, prefix, allowed = given["checkpoint"], given["prefix"], given["safe_globals"]
        if not isinstance(checkpoint, str | os.PathLike) or not isinstance(os.fspath(checkpoint), str):
            checks.fault("checkpoint", f"must be a path or an address, got {checkpoint!r}")
        elif not os.fspath(checkpoint):
            checks.fault("checkpoint", "must be a path or an address, got an empty string")
        if not isinstance(prefix, str | None):
            checks.fault("prefix", f"must be a string such as 'backbone.', or None, got {prefix!r}")
        _check_device(checks, given["map_location"])
        checks.choice("on_mismatch", given["on_mismatch"], get_args(OnMismatch))
        if not isinstance(given["strict"], bool):
            checks.fault("strict", f"must be True or False, got {given['strict']!r}")
        if isinstance(allowed, str) or not isinstance(allowed, Sequence):
            checks.fault("safe_globals", f"must be a list of classes or functions, got {allowed!r}")
        elif wrong := [item for item in allowed if not _is_safe_global(item)]:
            checks.fault("safe_globals", f"must hold classes, functions, or pairs of one and its path, got {wrong}")

    def describe(self) -> str:
        """The initializer with the arguments that are not the default ones.

        >>> PretrainedInit("weights.pth", prefix="backbone.").describe()
        "Pretrained(checkpoint='weights.pth', prefix='backbone.')"
        """
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.default is MISSING or getattr(self, field.name) != field.default
        }
        if self.safe_globals:
            given["safe_globals"] = [_path_of(item) for item in self.safe_globals]
        return call_text(self, given)

    def open(self) -> Checkpoint:
        """Finds and opens the checkpoint; names and shapes are known then.

        Raises:
            CheckpointError: It cannot be found or read.
        """
        return open_checkpoint(locate(self.checkpoint), Reading(safe_globals=tuple(self.safe_globals)))

    def check_device(self) -> None:
        """Looks for the device that values go over; a checkpoint that is open already says nothing about it.

        Raises:
            CheckpointError: ``map_location`` is a device that this machine lacks.
        """
        try:
            torch.empty(0, dtype=torch.uint8, device=self._device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError([Fault("map_location", f"no device {self.map_location!r} here: {reason}")]) from error

    def match(self, checkpoint: Checkpoint, targets: Sequence[Target]) -> Match:
        """Finds the key of every target; see `lightning_init.checkpoint.match.match`."""
        rules = KeyRules.parse(prefix=self.prefix)
        return match(checkpoint, targets, rules, on_mismatch=self.on_mismatch, strict=self.strict)

    def read(self, checkpoint: Checkpoint, key: str) -> Tensor:
        """The values under a key, on ``map_location``; not to be written to."""
        return checkpoint.read(key).to(self._device)

    @property
    def _device(self) -> torch.device:
        return torch.device(self.map_location or "cpu")

    def __call__(self, module: nn.Module) -> None:
        """Loads into a module; everything is checked before anything is written.

        What is missing, unexpected or skipped is logged as one table.

        Raises:
            CheckpointError: The checkpoint cannot be read or does not fit the module, or there is no ``map_location``.
            InitConfigError: A tensor of the module has no shape or no storage yet, or is parametrized without a way
                to write it.
        """
        slots = tree.slots(module)
        _refuse((slot, reason) for slot in slots if (reason := _unready(slot)))
        self.check_device()
        with self.open() as checkpoint:
            found = self.match(checkpoint, targets(slots))
            _refuse((slot, _NO_INVERSE) for slot in slots if slot.name in found.loaded and not _is_invertible(slot))
            for slot in slots:
                for name in (slot.name, *slot.parts):
                    if name in found.loaded:
                        copy_(slot, name, self.read(checkpoint, found.loaded[name]))
        complete = not (found.missing or found.unexpected or found.mismatched)
        _log.log(logging.INFO if complete else logging.WARNING, found.summary() if complete else found.table())


_NO_INVERSE = "is parametrized without a right inverse, so values cannot be loaded into it"


def _refuse(slots: Iterable[tuple[tree.Slot, str]]) -> None:
    faults = [Fault(slot.name, reason) for slot, reason in slots]
    if faults:
        raise InitConfigError(faults)


def _unready(slot: tree.Slot) -> str:
    if slot.is_lazy:
        return "has no shape yet; run the module once before"
    return "is on the meta device and has no storage; materialise it before" if slot.is_meta else ""


def _is_invertible(slot: tree.Slot) -> bool:
    return all(hasattr(step, "right_inverse") for part in slot.parts.values() for step in part.owner)


def targets(slots: Iterable[tree.Slot]) -> list[Target]:
    """What a checkpoint may fill of a module.

    Args:
        slots: Its parameters and persistent buffers, with shapes and with names relative to it.
    """
    return [
        Target(
            slot.name,
            slot.aliases,
            slot.shape,
            slot.dtype,
            slot.is_buffer,
            tuple(
                Target(name, (), tuple(part.tensor.shape), part.tensor.dtype, slot.is_buffer)
                for name, part in slot.parts.items()
            ),
        )
        for slot in slots
    ]


def copy_(slot: tree.Slot, name: str, value: Tensor) -> None:
    """Writes values into a slot, or into one of its parts.

    Args:
        slot: Where to.
        name: The name of the slot or of the part.
        value: Of its shape; type and device are converted.
    """
    if name in slot.parts:
        with torch.no_grad():
            slot.parts[name].tensor.copy_(value)
    else:
        values.copy_(slot, value)


def _check_device(checks: Checks, map_location: Any) -> None:
    what = "must be a device such as 'cpu' or 'cuda:0'"
    if map_location is None:
        return
    if not isinstance(map_location, str | torch.device):
        checks.fault("map_location", f"{what}, got {map_location!r}")
        return
    try:
        device = torch.device(map_location)
    except RuntimeError as error:
        checks.fault("map_location", f"{what}, got {map_location!r} ({str(error).splitlines()[0]})")
        return
    if device.type == "meta":
        checks.fault("map_location", f"{what}; on 'meta' the values would be lost")


def _is_safe_global(item: object) -> bool:
    if isinstance(item, tuple):
        return len(item) == 2 and callable(item[0]) and isinstance(item[1], str)
    # torch finds it in files by these two.
    return callable(item) and hasattr(item, "__module__") and hasattr(item, "__qualname__")


def _path_of(item: SafeGlobal) -> str:
    return item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}"
