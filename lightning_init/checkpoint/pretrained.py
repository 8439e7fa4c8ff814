"""``Pretrained``: values from a checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_init import tree
from lightning_init.checkpoint import arguments
from lightning_init.checkpoint.base import Checkpoint, Reading, SafeGlobal
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.checkpoint.matching.match import OnMismatch, match
from lightning_init.checkpoint.matching.matched import Match
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.checkpoint.slots import copy_, holder, targets
from lightning_init.checkpoint.sources.addresses import redacted
from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError, Fault, InitConfigError
from lightning_init.initializers.base import INITIALIZERS, Initializer, call_text
from lightning_init.initializers.checks import Checks
from lightning_init.sharding import boxes
from lightning_init.slot import Slot

__all__ = ["PretrainedInit"]

_log = logging.getLogger(__name__)


@INITIALIZERS.register
@dataclass(frozen=True, repr=False)
class PretrainedInit(Initializer):
    """Loads parameters and persistent buffers from a checkpoint.

    The content of a file tells its format: ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``, ``.bin``), safetensors, an
    index of shards, a folder of ``torch.distributed.checkpoint``. No code that a file brings is run.

    Args:
        checkpoint: A path to a file or folder, or an address: ``https://host/weights-1a2b3c4d.pth``,
            ``hf://org/name@revision/file``, ``s3://bucket/weights.pth`` and other schemes of fsspec,
            ``torchvision://resnet50``, ``file:///folder/weights.pth``.
        prefix: Which part of the checkpoint to take, with or without the dot at its end: ``"backbone."`` loads the
            key ``backbone.conv.weight`` as ``conv.weight``.
        map_location: The device over which values go to the parameters, which stay where they are. ``None`` is the
            CPU.
        on_mismatch: What to do about a key whose shape is not its parameter's: ``"error"``, ``"skip"`` to leave
            that parameter to the other rules, or ``"adapt"`` to let an adapter make it fit.
        strict: Keys (below the prefix) and parameters must agree one to one.
        safe_globals: Classes that a file of ``torch.save`` may make besides tensors. Without any, other classes are
            left unread. Allow only what you trust: the file decides how they are called.
        sha256: The hash of the file in hexadecimal, or its beginning.
        container: Under which name, or dotted path of names, the checkpoint keeps the weights; by default the usual
            names are looked for.
        ema: Take the averaged weights.
        revise_keys: Pairs of a regular expression and its replacement, applied to the keys in this order.
        include: Names or patterns of what is loaded, after the keys were revised; it is everything by default.
        exclude: Names or patterns of what is not loaded.
        into: The submodule that gets the weights; their keys do not begin with its name.
        adapters: The names of the adapters that may make shapes fit, in this order; by default all that are
            registered.
        min_match: The fraction of the module's parameters that the checkpoint has to fill, above 0 and at most 1; by
            default one parameter is enough.

    Raises:
        InitConfigError: Arguments of a wrong type or value.
    """

    checkpoint: str | os.PathLike[str]
    prefix: str | None = None
    map_location: str | torch.device | None = "cpu"
    on_mismatch: OnMismatch = "error"
    strict: bool = False
    safe_globals: Sequence[SafeGlobal] = ()
    sha256: str | None = field(default=None, kw_only=True)
    container: str | None = field(default=None, kw_only=True)
    ema: bool = field(default=False, kw_only=True)
    revise_keys: Sequence[tuple[str, str]] = field(default=(), kw_only=True)
    include: str | Sequence[str] = field(default=(), kw_only=True)
    exclude: str | Sequence[str] = field(default=(), kw_only=True)
    into: str | None = field(default=None, kw_only=True)
    adapters: Sequence[str] | None = field(default=None, kw_only=True)
    min_match: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        checks = Checks()
        arguments.check({field.name: getattr(self, field.name) for field in fields(self)}, checks)
        checks.close()
        # The caller's lists may change later, and an initializer is hashed.
        taken = {
            "checkpoint": os.fspath(self.checkpoint),
            "safe_globals": tuple(self.safe_globals),
            "revise_keys": tuple((pattern, replacement) for pattern, replacement in self.revise_keys or ()),
            "include": _names(self.include),
            "exclude": _names(self.exclude),
            "adapters": None if self.adapters is None else _names(self.adapters),
        }
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The initializer with the arguments that are not the default ones; an address without its secrets.

        >>> PretrainedInit("https://user:token@host/w.pth", prefix="backbone.").describe()
        "Pretrained(checkpoint='https://***@host/w.pth', prefix='backbone.')"
        """
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.default is MISSING or getattr(self, field.name) != field.default
        }
        given["checkpoint"] = self.address
        if self.safe_globals:
            given["safe_globals"] = [_path_of(item) for item in self.safe_globals]
        return call_text(self, given)

    @property
    def address(self) -> str:
        """The checkpoint as messages name it, without passwords and tokens."""
        return redacted(os.fspath(self.checkpoint))

    @property
    def reading(self) -> Reading:
        """What of the file is wanted."""
        return Reading(self.container, self.ema, tuple(self.safe_globals))

    @cached_property
    def key_rules(self) -> KeyRules:
        """What the keys are called in the module."""
        return KeyRules.parse(
            prefix=self.prefix,
            revise_keys=self.revise_keys,
            include=self.include,
            exclude=self.exclude,
            into=self.into,
        )

    def open(self) -> Checkpoint:
        """Finds, fetches and opens the checkpoint; names and shapes are known then.

        Raises:
            CheckpointError: It cannot be found or read.
        """
        path = locate(self.checkpoint, sha256=self.sha256)
        try:
            checkpoint = open_checkpoint(path, self.reading)
        except CheckpointError as error:
            if not self._is_fetched:
                raise
            raise CheckpointError(
                [
                    Fault(
                        fault.where,
                        f"{fault.what} [fetched from {self.address!r}; remove the file to fetch it anew]",
                    )
                    for fault in error.faults
                ]
            ) from error
        if self._is_fetched:
            checkpoint.source = self.address
        return checkpoint

    @property
    def _is_fetched(self) -> bool:
        return "://" in os.fspath(self.checkpoint) and not os.fspath(self.checkpoint).lower().startswith("file://")

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
        """Finds the key of every target; see `lightning_init.checkpoint.matching.match.match`."""
        return match(
            checkpoint,
            targets,
            self.key_rules,
            on_mismatch=self.on_mismatch,
            adapters=self.adapters,
            min_match=self.min_match,
            strict=self.strict,
        )

    def read(self, checkpoint: Checkpoint, found: Match, name: str) -> Tensor:
        """The values that a match found for a name, on ``map_location`` and made to fit; not to be written to."""
        return found.adapt(name, checkpoint.read(found.loaded[name]).to(self._device))

    def write(self, checkpoint: Checkpoint, found: Match, name: str, slot: Slot, at: str) -> None:
        """Writes the values that a match found for a name.

        Of a tensor that is spread over ranks, only what this rank holds is read, one piece at a time; what has to be
        adapted, and what a parametrization takes, is read as a whole.

        Args:
            checkpoint: Where from.
            found: The match.
            name: What the match calls it.
            slot: Where to.
            at: The name of the slot, or of one of its parts.

        Raises:
            CheckpointError: The values cannot be read or made to fit.
        """
        tensor = holder(slot, at)
        if tensor is None or name in found.adapted:
            copy_(slot, at, self.read(checkpoint, found, name))
        else:
            checkpoint.load(found.loaded[name], boxes(tensor), self._device)

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
            for name in found.adapted:
                # What an adapter makes shows only then; it may fail.
                self.read(checkpoint, found, name)
            for slot in slots:
                for name in (slot.name, *slot.parts):
                    if name in found.loaded:
                        self.write(checkpoint, found, name, slot, name)
            told = [*checkpoint.notes, *map(str, found.warnings)]
        told.append(found.told())
        _log.log(logging.INFO if found.complete else logging.WARNING, "\n".join(told))


_NO_INVERSE = "is parametrized without a right inverse, so values cannot be loaded into it"


def _refuse(slots: Iterable[tuple[Slot, str]]) -> None:
    faults = [Fault(slot.name, reason) for slot, reason in slots]
    if faults:
        raise InitConfigError(faults)


def _unready(slot: Slot) -> str:
    if slot.is_lazy:
        return "has no shape yet; run the module once before"
    return "is on the meta device and has no storage; materialise it before" if slot.is_meta else ""


def _is_invertible(slot: Slot) -> bool:
    return all(hasattr(step, "right_inverse") for part in slot.parts.values() for step in part.owner)


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _path_of(item: SafeGlobal) -> str:
    return item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}"
