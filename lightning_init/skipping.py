"""Constructors that leave out the numbers which an initialisation would replace anyway."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_init import distributed
from lightning_init.sharding import is_sharded, local
from lightning_init.tree import Tree

__all__ = ["left_out", "skip_default_init"]

# On the module that holds them, the names of its parameters that were left out: a tensor's own attributes are lost when
# it is copied, those of a module are not.
_LEFT_OUT = "_lightning_init_left_out"
_INIT = "torch.nn.init"
_RESET = "reset_parameters"


@contextmanager
def skip_default_init() -> Iterator[None]:
    """Within, constructors do not fill the parameters of the layers that they make.

    Left out is what a module's ``reset_parameters`` does by ``torch.nn.init`` to the module's own parameters while its
    constructor runs, and nothing else: values that a constructor gives by other means, or to other modules, are made.
    `lightning_init.init_weights` and the callback know what was left out. What no rule writes of it they fill by that
    same ``reset_parameters``, as for a module that was built on ``meta``. Until then the first and the last
    element of such a parameter are NaN, so that it cannot be trained on unnoticed; the others are whatever was in the
    memory.

    >>> with skip_default_init():
    ...     linear = nn.Linear(3, 2)
    >>> linear.bias[0]
    tensor(nan, grad_fn=<SelectBackward0>)
    """
    with _Skip():
        yield


def left_out(tree: Tree) -> frozenset[tuple[nn.Module, str]]:
    """The (module, attribute) of what was left out and has not been written since.

    Of a tree with parameters that are spread over ranks, every rank has to ask.
    """
    marked: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for node in tree.nodes.values():
        for name in vars(node.module).get(_LEFT_OUT, ()):
            tensor = node.module._parameters.get(name)
            if tensor is not None:
                marked[f"{node.path}.{name}"] = (node.module, name, tensor)
    found = {path for path, (_, _, tensor) in marked.items() if _has_no_values(tensor)}
    if any(is_sharded(tensor) for _, _, tensor in marked.values()):
        # The ends of such a tensor are on two ranks.
        found = set().union(*distributed.from_all("what constructors left out", found))
    return frozenset(marked[path][:2] for path in found)


class _Skip(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            name = getattr(func, "__name__", "")
            if name.endswith("_") and not name.endswith("__"):
                module = _under_construction(tensor, is_init=getattr(func, "__module__", None) == _INIT)
                if module is not None:
                    _leave_out(module, tensor)
                    return tensor
        return func(*args, **kwargs)


def _leave_out(module: nn.Module, tensor: Tensor) -> None:
    names = {name for name, parameter in module._parameters.items() if parameter is tensor}
    vars(module).setdefault(_LEFT_OUT, set()).update(names)
    for end in _ends(tensor):
        end.fill_(math.nan)


def _under_construction(tensor: Tensor, *, is_init: bool) -> nn.Module | None:
    """The module whose constructor has its ``reset_parameters`` write a parameter of its own by ``torch.nn.init``."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - only the stack tells whose constructor runs
    while frame is not None and frame.f_code.co_name != _RESET:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("torch."):
            return None
        is_init = is_init or module == _INIT
        frame = frame.f_back
    if frame is None or not is_init:
        return None
    owner = frame.f_locals.get("self")
    # A class may extend the method of its base.
    while frame is not None and frame.f_code.co_name == _RESET and frame.f_locals.get("self") is owner:
        frame = frame.f_back
    is_built = frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is owner
    if not is_built or not isinstance(owner, nn.Module):
        return None
    return owner if any(parameter is tensor for parameter in owner._parameters.values()) else None


def _has_no_values(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return False
    return any(bool(end.isnan()) for end in _ends(local(tensor)))


def _ends(tensor: Tensor) -> list[Tensor]:
    """The first and the last element: a layer may set a part, such as the padding row of an embedding."""
    if not tensor.numel():
        return []
    return [tensor.detach()[(index,) * tensor.dim()] for index in (0, -1)]
