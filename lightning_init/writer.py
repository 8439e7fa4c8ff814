"""Executes claims: laws and checkpoints into the slots of a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from lightning_init import distributed
from lightning_init.checkpoint.samples import sample
from lightning_init.errors import Fault, InitConfigError
from lightning_init.finite import refuse_nan
from lightning_init.garbage import uncollected
from lightning_init.ledger import Ledger, Written
from lightning_init.report import Expected
from lightning_init.rng import Stream, isolated
from lightning_init.sharding import is_sharded
from lightning_init.steps import Claim, Fill, Load, LoadStep
from lightning_init.tree import Slot
from lightning_init.values import write_slot
from lightning_init.workers import Workers, in_turn

__all__ = ["Writer"]


@dataclass
class Writer:
    """Writes slots, and says so in the ledger.

    Attributes:
        ledger: Who wrote what.
        seed: The seed of the random streams.
        workers: Who draws the numbers.
        replaced: The modules that are not in the tree any more, with the method that replaced them.
    """

    ledger: Ledger
    seed: int
    workers: Workers
    replaced: dict[nn.Module, str] = field(default_factory=dict)

    def fill(self, claims: Sequence[Fill]) -> None:
        """A rule fills slots.

        Args:
            claims: Those of its claims that are executed.

        Raises:
            InitConfigError: A method has replaced a module that held one, or an initializer of a user writes NaN.
        """
        for claim in claims:
            self._refuse_replaced(claim)
        with uncollected():
            beside = []
            for claim in claims:
                if claim.is_concurrent and _is_plain(claim.slot):
                    beside.append(partial(self._fill, claim))
                else:
                    self._fill(claim)
            self.workers.run(beside)

    def _fill(self, claim: Fill) -> None:
        slot = claim.slot
        device = torch.device("cpu") if self.ledger.settings.rng_device == "cpu" else slot.tensors[0].device
        stream = Stream(self.seed, slot.key, device)
        # Other devices have threads of their own.
        workers = self.workers if device.type == "cpu" else in_turn
        with self._right_inverse(slot):
            write_slot(slot, lambda tensor: claim.write(tensor, stream.generator, workers))
        # What a parametrization makes of the numbers, nobody knows.
        law = None if slot.parts else claim.expected
        self.ledger.filled(slot.name, Written(claim.source, claim.what, Expected.of(law), claim.is_random))
        refuse_nan(claim)

    def load(self, step: LoadStep, claims: Sequence[Load]) -> None:
        """A checkpoint fills slots: rank zero first, then the others, or all from what rank zero reads.

        Args:
            step: The rule and its checkpoint.
            claims: Those of its claims that are executed.

        Raises:
            CheckpointError: Values cannot be read.
            InitConfigError: A method has replaced a module that held one.
        """
        for claim in claims:
            self._refuse_replaced(claim)

        def read() -> None:
            for claim in claims:
                self._load(step, claim)

        if claims:
            in_turn = distributed.together if self.ledger.settings.sync == "broadcast" else distributed.one_first
            in_turn(f"loading {step.checkpoint.source}", read)
        self.ledger.read(step, [(claim.slot.name, claim.what) for claim in claims])

    def _load(self, step: LoadStep, claim: Load) -> None:
        with self._right_inverse(claim.slot):
            step.write(claim)
        # The others may have read theirs elsewhere; of what rank zero reads for all, they have not.
        if self.ledger.settings.sync != "broadcast" and any(map(is_sharded, claim.slot.tensors)):
            self.ledger.samples[claim.slot.name] = sample(step.checkpoint, step.match.loaded[claim.name])

    @contextmanager
    def _right_inverse(self, slot: Slot) -> Iterator[None]:
        """Some right inverses draw random numbers of their own."""
        if not slot.parts:
            yield
            return
        with isolated(self.seed, slot.key, {tensor.device for tensor in slot.tensors}):
            yield

    def _refuse_replaced(self, claim: Claim) -> None:
        slot = claim.slot
        by = self.replaced.get(slot.places[0][0])
        if by is not None:
            told = f"cannot write {slot.name!r}: {by} has replaced the module that held it; make it in the constructor"
            raise InitConfigError([Fault(claim.source, told)])


def _is_plain(slot: Slot) -> bool:
    """It can be written beside others: nothing else is written with it, and its device has no threads of its own."""
    return not slot.parts and slot.tensor.device.type == "cpu"
