"""Lightning's ``FSDPStrategy``: a model on ``meta`` gets storage unit by unit, while it is wrapped."""

from __future__ import annotations

import weakref
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch import Tensor, nn

from lightning_init import distributed
from lightning_init.errors import Fault, InitError
from lightning_init.materialize import has_meta, with_storage
from lightning_init.slot import join
from lightning_init.storage import Storage
from lightning_init.tree import Tree
from lightning_init.units import FLATTENED, has_units

__all__ = ["gets_storage_later", "prepare", "refuse_meta", "release", "storage"]

_HOOK = "param_init_fn"


class _Allocation:
    """FSDP's ``param_init_fn``: gives storage to what a module itself holds on ``meta``, and leaves it blank.

    FSDP calls it for the modules of a unit before it flattens them, so that no rank ever holds more than a unit in
    whole. What it would otherwise call is ``reset_parameters``, whose numbers the config may not want.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.blank: set[tuple[nn.Module, str]] = set()
        # The tensors on `meta`, which are kept so that their ids stay theirs, and what stands for them.
        self._made: dict[int, tuple[Tensor, weakref.ref[Tensor]]] = {}

    def __call__(self, module: nn.Module) -> None:
        self._give(module)

    def give_ignored(self, ignored: list[Any], root: nn.Module) -> list[Any]:
        """Gives storage to modules with all below them, and to parameters; the same, with what stands for those now."""
        for state in ignored:
            for part in state.modules() if isinstance(state, nn.Module) else root.modules():
                self._give(part, None if isinstance(state, nn.Module) else state)
        return [self._made[id(state)][1]() if id(state) in self._made else state for state in ignored]

    def _give(self, module: nn.Module, only: Tensor | None = None) -> None:
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta and (only is None or tensor is only):
                    held[name] = self._storage_of(tensor, name)
                    self.blank.add((module, name))

    def _storage_of(self, tensor: Tensor, name: str) -> Tensor:
        if id(tensor) not in self._made:
            made = with_storage(tensor, self.device)
            self._made[id(tensor)] = tensor, weakref.ref(made)
            return made
        found = self._made[id(tensor)][1]()
        if found is None or getattr(found, FLATTENED, False):
            raise InitError(f"{name!r} is tied to a parameter of another FSDP unit; tie them within one unit")
        return found


def prepare(strategy: Strategy) -> None:
    """Lets FSDP give storage without filling it, unless the user has a function for that."""
    if isinstance(strategy, FSDPStrategy):
        strategy.kwargs.setdefault(_HOOK, _Allocation(strategy.root_device))


def release(strategy: Strategy) -> None:
    """Undoes `prepare`."""
    if isinstance(strategy, FSDPStrategy) and isinstance(strategy.kwargs.get(_HOOK), _Allocation):
        del strategy.kwargs[_HOOK]


def storage(strategy: Strategy, pl_module: pl.LightningModule) -> Storage:
    """What tensors on ``meta`` get under a strategy, or have got from `prepare` already.

    Raises:
        InitError: Ranks had different ones on ``meta``.
    """
    if not isinstance(strategy, FSDPStrategy):
        return Storage(strategy.root_device)
    hook = strategy.kwargs.get(_HOOK)
    blank = hook.blank if isinstance(hook, _Allocation) else frozenset()
    nodes = Tree(pl_module).nodes
    names = sorted(join(nodes[module].path, name) for module, name in blank)
    if any(others != names for others in distributed.from_all("what was on the meta device", names)):
        raise InitError(
            "some ranks have built on the meta device what others have built with values; do the same on every rank"
        )
    return Storage(strategy.root_device, blank)


def gets_storage_later(strategy: Strategy, pl_module: pl.LightningModule) -> bool:
    """FSDP will give storage to the module, which no rank should have in whole before.

    What FSDP is told to ignore gets its storage at once: the optimizers are made before its turn comes.
    """
    if not isinstance(strategy, FSDPStrategy):
        return False
    mine = has_meta(Tree(pl_module)) and not has_units(pl_module)
    if not any(distributed.from_all("what is on the meta device", mine)):
        return False
    hook = strategy.kwargs[_HOOK]
    for key in ("ignored_modules", "ignored_states"):
        if strategy.kwargs.get(key) is not None and isinstance(hook, _Allocation):
            # It may be an iterator.
            strategy.kwargs[key] = hook.give_ignored(list(strategy.kwargs[key]), pl_module)
    return True


def refuse_meta(pl_module: pl.LightningModule) -> None:
    """Looks at a module that FSDP has wrapped.

    Raises:
        InitError: Something has no storage still, and the optimizers were made with it.
    """
    told = "is on the meta device although FSDP has wrapped the model; give it storage in configure_model"
    faults = [
        Fault(join(node.path, name), told)
        for node in Tree(pl_module).nodes.values()
        for name, tensor in (*node.module._parameters.items(), *node.module._buffers.items())
        if tensor is not None and tensor.is_meta
    ]
    if faults:
        raise InitError(faults)
