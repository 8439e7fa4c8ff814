"""Writing values into parameters and buffers, parametrized ones and padding rows included."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_init import sharding
from lightning_init.gradients import no_gradients
from lightning_init.parametrized import assign, computed, obstacle, parametrizations
from lightning_init.slot import Slot, parameter

__all__ = ["copy_", "has_padding", "padding_row", "trial", "write", "write_slot"]


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def write(module: nn.Module, name: str, fill: Callable[[Tensor], None]) -> None:
    """Writes a parameter or buffer of a module in place.

    A parametrized one is written through the right inverse of its parametrizations. The padding row of an embedding is
    zero afterwards.

    Args:
        module: The module that holds it.
        name: Its plain attribute.
        fill: Gets a detached tensor of its shape, type and device, and fills it.
    """
    with no_gradients():
        is_parametrized = name in parametrizations(module)
        # Not empty_like: a filler may leave elements as they are.
        tensor = computed(module, name).clone() if is_parametrized else parameter(module, name).detach()
        fill(tensor)
        _zero_padding(module, name, tensor)
        if is_parametrized:
            assign(module, name, tensor)


def _zero_padding(module: nn.Module, name: str, tensor: Tensor) -> None:
    row = padding_row(module, name)
    if row is not None:
        sharding.zero_row_(tensor, row)


def padding_row(module: nn.Module, name: str) -> int | None:
    """The row of an embedding that stays zero."""
    if name != "weight" or not isinstance(module, _EMBEDDINGS):
        return None
    row: int | None = module.padding_idx
    return row


def has_padding(slot: Slot) -> bool:
    """A row of it stays zero."""
    for module, name in slot.places:  # noqa: SIM110 - a generator would take longer than the answer
        if padding_row(module, name) is not None:
            return True
    return False


def write_slot(slot: Slot, fill: Callable[[Tensor], None]) -> None:
    """Writes a slot; a padding row stays zero whichever of the tied modules it belongs to."""
    if slot.parts:
        write(*slot.places[0], lambda tensor: _fill_all(slot, tensor, fill))
    else:
        with no_gradients():
            _fill_all(slot, slot.tensor.detach(), fill)


def trial(slot: Slot, fill: Callable[[Tensor], None] | None = None) -> str | None:
    """Why a parametrized slot cannot be written; None if it can. It is tried on a copy.

    Args:
        slot: A slot with parts.
        fill: What would write it; None for the values that it has now.
    """
    module, name = slot.places[0]
    value = computed(module, name).clone()
    if fill is not None:
        _fill_all(slot, value, fill)
    return obstacle(module, name, value)


def _fill_all(slot: Slot, tensor: Tensor, fill: Callable[[Tensor], None]) -> None:
    fill(tensor)
    for module, name in slot.places:
        _zero_padding(module, name, tensor)


def copy_(slot: Slot, value: Tensor) -> None:
    """Writes given values into a slot, all of them: a checkpoint's padding row is what it is.

    Args:
        slot: Where to.
        value: Of the slot's shape; its type and device are converted.
    """
    module, name = slot.places[0]
    with no_gradients():
        if slot.parts:
            # A right inverse may keep what it gets, and this may be a view of a file.
            assign(module, name, value.to(slot.tensors[0], copy=True))
        else:
            sharding.copy_(slot.tensor, value)
