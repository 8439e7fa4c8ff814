"""Executes claims: laws and checkpoints into the slots of a module."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from lightning_init import distributed
from lightning_init.checkpoint.samples import sample
from lightning_init.errors import Fault, InitConfigError
from lightning_init.extents import Extents
from lightning_init.finite import refuse_nan
from lightning_init.garbage import collected
from lightning_init.gradients import no_gradients
from lightning_init.initializers.fill import Later, is_plain, is_small
from lightning_init.ledger import Ledger
from lightning_init.rng import Stream, isolated
from lightning_init.sharding import is_sharded, local
from lightning_init.slot import Slot
from lightning_init.steps import Claim, Fill, Load, LoadStep
from lightning_init.values import has_padding, write_slot
from lightning_init.workers import Workers, in_turn

__all__ = ["Writer"]

_CPU = torch.device("cpu")


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
        for claim in claims if self.replaced else ():
            self._refuse_replaced(claim)
        with no_gradients():
            later, held = Later(), Extents()
            for claim in claims:
                small = _small(claim)
                waits = small is None and _can_wait(claim)
                # What is filled by other means may read what waits. Of two views of one memory the last one wins.
                if later.pieces and ((small is None and not waits) or held.meet(local(claim.slot.tensor))):
                    self.workers.run(later.pieces)
                    later, held = Later(), Extents()
                if small is not None:
                    claim.recipe.write_small(small, self.seed, claim.slot.key)
                    self.ledger.filled(claim)
                elif waits:
                    self._put_off(claim, later)
                    held.add(local(claim.slot.tensor))
                else:
                    self._fill(claim)
            self.workers.run(later.pieces)

    def _put_off(self, claim: Fill, later: Later) -> None:
        if claim.recipe.is_concurrent:
            later.pieces.append(partial(self._fill, claim))
        else:
            self._fill(claim, later)

    def _fill(self, claim: Fill, later: Later | None = None) -> None:
        slot, recipe = claim.slot, claim.recipe
        device = _CPU if self.ledger.settings.rng_device == "cpu" else slot.tensors[0].device
        stream = Stream(self.seed, slot.key, device)
        # Other devices have threads of their own.
        workers = self.workers if device.type == "cpu" else in_turn
        fill = partial(recipe.write, stream=stream, workers=workers, later=later)
        if slot.parts:
            with self._right_inverse(slot):
                write_slot(slot, fill)
        else:
            write_slot(slot, fill)
        self.ledger.filled(claim)
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

        @collected()
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

    def _right_inverse(self, slot: Slot) -> AbstractContextManager[None]:
        """Some right inverses draw random numbers of their own."""
        if not slot.parts:
            return nullcontext()
        return isolated(self.seed, slot.key, {tensor.device for tensor in slot.tensors})

    def _refuse_replaced(self, claim: Claim) -> None:
        slot = claim.slot
        by = self.replaced.get(slot.places[0][0])
        if by is not None:
            told = f"cannot write {slot.name!r}: {by} has replaced the module that held it; make it in the constructor"
            raise InitConfigError([Fault(claim.source, told)])


def _small(claim: Fill) -> Tensor | None:
    """The tensor in the case of most: a small one, of which nothing but its numbers has to be written."""
    slot = claim.slot
    if slot.parts or not claim.recipe.is_quick:
        return None
    tensor = slot.tensor
    return tensor if tensor.is_cpu and is_small(tensor) and not has_padding(slot) else None


def _can_wait(claim: Fill) -> bool:
    """It can be filled later, beside others: nothing has to follow, and its device has no threads of its own."""
    slot, recipe = claim.slot, claim.recipe
    tensor = slot.tensor
    if slot.parts or tensor.device.type != "cpu" or not (is_plain(tensor) or is_sharded(tensor)):
        return False
    if recipe.is_concurrent:
        # What needs the whole of a tensor makes it on every rank, and several at once might be as large as the model.
        return not is_sharded(tensor)
    return recipe.is_quick and not has_padding(slot)
