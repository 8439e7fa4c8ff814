"""Lends a module for a trial run, and takes it back as if nothing had happened.

While it is lent, copies stand in place of its parameters, buffers and other tensors, so whatever the run writes or
accumulates, it does to copies; the hooks of others on the parameters (of DDP, of a fused optimizer) do not run. What
else modules keep in attributes (lists, dicts, counters, hooks, the training mode) is put back from a note of it. Not
undone is what happens inside of objects of other kinds, such as an open file or a queue.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_init.errors import InitError
from lightning_init.gathering import reshard
from lightning_init.sharding import is_sharded
from lightning_init.units import has_units

__all__ = ["lent", "without_draws"]

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


@contextmanager
def lent(module: nn.Module) -> Iterator[None]:
    """Within, a module may be run in any way; afterwards it is as before, bit for bit, also if the run failed.

    Parameters that are spread over ranks are not copied, since FSDP2 puts others in their place itself; only their
    gradients are put back. A compiled module runs uncompiled. The copies need as much memory as the weights.

    Raises:
        InitError: The module is a ``ScriptModule``, which lets nobody put copies in, or in units of FSDP1, which hold
            its parameters elsewhere.
    """
    modules = list(module.modules())
    if has_units(module):
        raise InitError("a module in units of FSDP1 cannot be lent, since they hold its parameters elsewhere")
    scripted = next((each for each in modules if isinstance(each, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise InitError(f"{type(scripted).__name__} is a ScriptModule, whose parameters cannot be lent")
    with ExitStack() as stack:
        stack.enter_context(without_draws({tensor.device for tensor in _held(modules)}))
        stack.enter_context(_uncompiled())
        gradients = [(parameter, parameter.grad) for parameter in module.parameters() if not is_lazy(parameter)]
        stack.callback(_put_back_gradients, gradients)
        note = _Note()
        stack.callback(note.restore)
        if "torch.distributed.fsdp" in sys.modules:
            # The shares have to be in their places when they are noted, and whatever happened, when the note is read.
            reshard(modules)
            stack.callback(reshard, modules)
        for each in modules:
            note.take(each)
        copies: dict[int, Any] = {}
        for each in modules:
            _lend(each, copies)
        for parameter, _ in gradients:
            parameter.grad = None
        yield


@contextmanager
def without_draws(devices: set[torch.device] | None = None) -> Iterator[None]:
    """Within, torch draws the same numbers every time; afterwards no generator has moved.

    Args:
        devices: Whose generators are seeded and put back besides the CPU's and those of all GPUs.
    """
    found = {device for device in devices or () if device.type not in ("cpu", "meta")}
    if torch.cuda.is_initialized():
        found |= {torch.device("cuda", i) for i in range(torch.cuda.device_count())}
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        torch.default_generator.manual_seed(0)
        for device in found:
            backend = torch.get_device_module(device)
            stack.callback(backend.set_rng_state, backend.get_rng_state(device), device)
            with torch.device(device):
                backend.manual_seed(0)
        yield


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What `torch.compile` would make with our hooks in it must not be found by the training later."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class _Note:
    """What modules hold in their attributes, down through plain containers."""

    def __init__(self) -> None:
        self._modules: list[tuple[nn.Module, type, dict[str, Any]]] = []
        self._containers: dict[int, tuple[Any, Any]] = {}

    def take(self, module: nn.Module) -> None:
        self._modules.append((module, module.__class__, dict(module.__dict__)))
        for value in module.__dict__.values():
            self._note(value)

    def _note(self, value: Any) -> None:
        if type(value) in _CONTAINERS and id(value) not in self._containers:
            self._containers[id(value)] = (value, copy.copy(value))
        elif type(value) is not tuple:
            return
        # Not what is in a list of a million samples.
        if len(value) <= _MOST:
            for item in value.values() if isinstance(value, dict) else value:
                self._note(item)

    def restore(self) -> None:
        for module, kind, attributes in self._modules:
            # A lazy module becomes one of another class.
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for value, held in self._containers.values():
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(held)


_MOST = 10_000


def _lend(module: nn.Module, copies: dict[int, Any]) -> None:
    for table in (module._parameters, module._buffers):
        # However many they are.
        copies[id(table)] = table
        for name, tensor in table.items():
            table[name] = _put_copies(tensor, copies)
    _put_copies(module.__dict__, copies)


def _put_copies(value: Any, copies: dict[int, Any]) -> Any:
    """Copies of the tensors in a value, in place where a note of it has been taken."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, Tensor):
        return _copy(value, copies)
    if type(value) not in _CONTAINERS or len(value) > _MOST:
        return tuple(_put_copies(item, copies) for item in value) if type(value) is tuple else value
    copies[id(value)] = value
    if not isinstance(value, set):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key] = _put_copies(item, copies)
    return value


def _copy(tensor: Tensor, copies: dict[int, Any]) -> Tensor:
    if is_sharded(tensor):
        return tensor
    copies[id(tensor)] = made = _duplicate(tensor)
    if made.requires_grad and made.is_leaf and not is_lazy(made):
        # Only what arrives at the layers is of interest: the gradient of a weight is dropped at once.
        made.register_post_accumulate_grad_hook(_drop)
    return made


def _duplicate(tensor: Tensor) -> Tensor:
    if type(tensor) not in (Tensor, nn.Parameter):
        # Quantized, lazy, or of a class that knows best how to be copied.
        return copy.deepcopy(tensor)
    made = tensor.detach().clone()
    made = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    made.requires_grad_(tensor.requires_grad and tensor.is_leaf)
    made.__dict__.update(tensor.__dict__)
    return made


def _drop(tensor: Tensor) -> None:
    tensor.grad = None


def _put_back_gradients(gradients: list[tuple[nn.Parameter, Tensor | None]]) -> None:
    for parameter, gradient in gradients:
        parameter.grad = gradient


def _held(modules: list[nn.Module]) -> Iterator[Tensor]:
    tables: Callable[[nn.Module], tuple[Any, ...]] = lambda module: (module._parameters, module._buffers)  # noqa: E731
    return (tensor for each in modules for table in tables(each) for tensor in table.values() if tensor is not None)
