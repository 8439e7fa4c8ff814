"""One place that holds numbers: a parameter or a persistent buffer, with all the names that lead to it.

A parametrized tensor (``torch.nn.utils.parametrize``) is one slot under its plain name; the tensors it is computed from
are the slot's *parts*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init.once import once
from lightning_init.parametrized import computed, original, parametrizations

__all__ = ["Part", "Slot", "join", "new_slot", "parameter", "parameter_names", "tensors_of"]

_Place: TypeAlias = tuple[nn.Module, str]


def join(*parts: str) -> str:
    """A qualified name from parts of which some may be empty.

    >>> join("", "backbone", "conv")
    'backbone.conv'
    """
    return ".".join(filter(None, parts))


@dataclass(frozen=True)
class Part:
    """One tensor that a parametrized tensor is computed from (``parametrizations.weight.original0``)."""

    owner: ParametrizationList
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """The live tensor."""
        tensor: Tensor = getattr(self.owner, self.attribute)
        return tensor


# Not frozen, since that would treble what it costs to make one; nothing changes it once its tree is there.
@dataclass(eq=False)
class Slot:
    """A distinct parameter or persistent buffer.

    Attributes:
        places: Every (module, attribute) that holds it; tied parameters have several.
        names: The qualified names of these places, in the order of registration.
        is_buffer: It is a persistent buffer, where it is met first.
        parts: For a parametrized tensor, the tensors it is computed from, by their qualified names.
    """

    places: tuple[_Place, ...]
    names: tuple[str, ...]
    is_buffer: bool
    parts: Mapping[str, Part]

    def add(self, place: _Place, name: str) -> None:
        """Another place holds it: a tied parameter, or one of a shared module, which is come by more than once."""
        self.places = self.places if place in self.places else (*self.places, place)
        self.names = self.names if name in self.names else (*self.names, name)

    @property
    def name(self) -> str:
        """The name under which it was registered first."""
        return self.names[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names."""
        return self.names[1:]

    @property
    def key(self) -> str:
        """The name of its random stream: the smallest one, so that the order of registration does not count."""
        return min(self.names)

    @property
    def tensor(self) -> Tensor:
        """The live tensor; for a parametrized one the value that its parts make."""
        module, attribute = self.places[0]
        if self.parts:
            return computed(module, attribute)
        held: Tensor | None = module._parameters.get(attribute)
        return parameter(module, attribute) if held is None else held

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The live tensors that hold the numbers: itself, or its parts."""
        return tuple(part.tensor for part in self.parts.values()) if self.parts else (self.tensor,)

    @property
    def is_trainable(self) -> bool:
        """It wants a gradient, or a part of it does."""
        return any(tensor.requires_grad for tensor in self.tensors)

    @property
    def is_lazy(self) -> bool:
        """It has no shape yet."""
        return any(map(is_lazy, self.tensors))

    @property
    def is_meta(self) -> bool:
        """It has a shape and no storage."""
        return any(tensor.is_meta for tensor in self.tensors)

    @once
    def shape(self) -> tuple[int, ...]:
        """Its shape; empty while it is lazy."""
        tensors = self.tensors
        if any(map(is_lazy, tensors)):
            return ()
        return tuple((self.tensor if self.parts else tensors[0]).shape)

    @once
    def dtype(self) -> torch.dtype:
        """The type of its elements."""
        return self.tensors[0].dtype


_NO_PARTS: Mapping[str, Part] = {}


def tensors_of(module: nn.Module) -> Mapping[str, Tensor | None]:
    """The tensors that identify the slots of a module itself, by their attributes; nearly always its parameters."""
    modules, buffers = module._modules, module._buffers
    if isinstance(module, ParametrizationList):
        # Its originals are parts of the parametrized slot; a buffer stands only where the original was one.
        return {}
    if not buffers and "parametrizations" not in modules:
        return module._parameters
    originals = {name: original(plist) for name, plist in parametrizations(module).items()}
    persistent = {name: held for name, held in buffers.items() if name not in module._non_persistent_buffers_set}
    return {**module._parameters, **originals, **persistent}


def _is_buffer(module: nn.Module, attribute: str, tensor: Tensor) -> bool:
    """Whether a tensor that `tensors_of` gives is a buffer of this module; elsewhere it may be a parameter."""
    if attribute in module._buffers:
        return True
    return attribute not in module._parameters and not isinstance(tensor, nn.Parameter)


def new_slot(tensor: Tensor, module: nn.Module, attribute: str, name: str, *, is_parameter: bool) -> Slot:
    """The slot of a tensor that a module holds.

    Args:
        tensor: What `tensors_of` gives for it.
        module: The module.
        attribute: Its name there.
        name: Its qualified name.
        is_parameter: It is known to be a plain parameter.
    """
    place = (module, attribute)
    if is_parameter:
        slot = Slot((place,), (name,), is_buffer=False, parts=_NO_PARTS)
    else:
        plist = parametrizations(module).get(attribute)
        parts = _NO_PARTS if plist is None else _parts(plist, attribute, name)
        slot = Slot((place,), (name,), _is_buffer(module, attribute, tensor), parts)
    if not (slot.parts or is_lazy(tensor)):
        # They will be asked for, and the tensor is at hand. `once` gives way to what an instance has.
        slot.shape, slot.dtype = tuple(tensor.shape), tensor.dtype
    return slot


def _parts(plist: ParametrizationList, attribute: str, name: str) -> dict[str, Part]:
    path = join(name.removesuffix(attribute).rstrip("."), "parametrizations", attribute)
    originals = ["original"] if plist.is_tensor else [f"original{i}" for i in range(plist.ntensors)]
    return {join(path, original): Part(plist, original) for original in originals}


def parameter_names(module: nn.Module) -> list[str]:
    """The attributes of a module itself that hold a parameter, a parametrized one by its plain name."""
    if "parametrizations" in module._modules or isinstance(module, ParametrizationList):
        held = tensors_of(module).items()
        return [name for name, tensor in held if tensor is not None and not _is_buffer(module, name, tensor)]
    return [name for name, held in module._parameters.items() if held is not None]


def parameter(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name, as it is now."""
    if name in parametrizations(module):
        return computed(module, name)
    tensor: Tensor | None = module._parameters.get(name)
    if tensor is None:
        tensor = module._buffers[name]
    if tensor is None:
        raise AttributeError(name)
    return tensor
