"""The modules' own ``init_weights`` while they run: whose they are, what they write, what is prepared for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from lightning_init.forest import held
from lightning_init.garbage import collected
from lightning_init.gathering import gathered
from lightning_init.ledger import Ledger
from lightning_init.rng import isolated
from lightning_init.slot import Slot
from lightning_init.steps import Call, FillStep, LoadStep, Step
from lightning_init.tracking import Tracker
from lightning_init.tree import Tree
from lightning_init.writer import Writer

__all__ = ["Calls"]


@dataclass(frozen=True)
class _Method:
    """A module's own ``init_weights`` while it runs."""

    module: nn.Module
    source: str
    tracker: Tracker


@dataclass(frozen=True)
class _Prepared:
    """The steps that ``super().init_weights()`` is to run, and what the module held when they were planned."""

    steps: Sequence[Step]
    held: frozenset[tuple[nn.Module, str]]


@dataclass
class Calls:
    """The methods that run, each inside the one before.

    Attributes:
        ledger: Who wrote what.
    """

    ledger: Ledger
    _running: list[_Method] = field(default_factory=list)
    _prepared: dict[nn.Module, _Prepared] = field(default_factory=dict)

    def run(self, call: Call, tree: Tree, writer: Writer) -> None:
        """Runs a method on whole weights, with generators of its own, and takes down what it writes."""
        module, path = call.node.module, call.node.path
        if call.nested is not None:
            self._prepared[module] = _Prepared(call.nested, held(module))
        modules = set(module.modules())
        known = tree.slot_of

        def snapshot() -> dict[str, Sequence[torch.Tensor]]:
            return {
                known.get(slot.places[0], slot).name: slot.tensors
                for slot in Tree(module, path).slots
                if not slot.is_buffer
            }

        with gathered(module, call.source):
            devices = {tensor.device for tensors in snapshot().values() for tensor in tensors}
            with isolated(writer.seed, path, devices), Tracker(snapshot) as tracker:
                self._running.append(_Method(module, call.source, tracker))
                try:
                    with collected():
                        module.init_weights()  # type: ignore[operator]  # methods.own_method has looked at it
                finally:
                    self._running.pop()
                self.ledger.written_by_method(call.source, tracker.take())
        writer.replaced.update(dict.fromkeys(modules.difference(module.modules()), call.source))
        if self._prepared.pop(module, None) is not None and any(
            isinstance(step, FillStep | LoadStep) for step in call.nested or ()
        ):
            self.ledger.notes.append(
                f"{call.source} does not call super().init_weights(), so the rules of its init_cfg and of "
                f"the modules below were not run"
            )

    def is_running(self, module: nn.Module) -> bool:
        """Whether the module's own method runs at the moment."""
        return any(method.module is module for method in self._running)

    def take_prepared(self, module: nn.Module) -> Sequence[Step] | None:
        """The steps planned for a module whose method runs; None if there are none, or it has changed since."""
        prepared = self._prepared.pop(module, None)
        return prepared.steps if prepared is not None and prepared.held == held(module) else None

    @contextmanager
    def between_writes(self, slots: Sequence[Slot]) -> Iterator[None]:
        """Keeps what the steps of a part write to its slots apart from what the method around them writes."""
        if not self._running:
            yield
            return
        method = self._running[-1]
        self.ledger.written_by_method(method.source, method.tracker.take_part(_tensors(slots)))
        method.tracker.active = False
        try:
            yield
        finally:
            method.tracker.take_part(_tensors(slots))
            method.tracker.active = True


def _tensors(slots: Sequence[Slot]) -> dict[str, Sequence[torch.Tensor]]:
    return {slot.name: slot.tensors for slot in slots if not slot.is_buffer}
