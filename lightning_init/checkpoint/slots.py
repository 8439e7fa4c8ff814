"""The parameters and buffers of a module, as what a checkpoint may fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_init import sharding, values
from lightning_init.checkpoint.matching.target import Target
from lightning_init.slot import Slot

__all__ = ["copy_", "holder", "target", "targets"]


def targets(slots: Iterable[Slot]) -> list[Target]:
    """What a checkpoint may fill of a module.

    Args:
        slots: Its parameters and persistent buffers, with shapes and with names relative to it.
    """
    return [target(slot, (slot.name, *slot.aliases), tuple(slot.parts)) for slot in slots]


def target(slot: Slot, names: Sequence[str], parts: Sequence[str]) -> Target:
    """One of them, under given names.

    Args:
        slot: The parameter or buffer.
        names: Its names.
        parts: The names of the tensors that it is computed from, in their order.
    """
    return Target(
        names[0],
        tuple(names[1:]),
        slot.shape,
        slot.dtype,
        slot.is_buffer,
        tuple(
            Target(name, (), tuple(part.tensor.shape), part.tensor.dtype, slot.is_buffer)
            for name, part in zip(parts, slot.parts.values(), strict=True)
        ),
        owners=tuple(type(module) for module, _ in slot.places),
    )


def holder(slot: Slot, name: str) -> Tensor | None:
    """The live tensor that holds the values under a name; None if its parts do.

    Args:
        slot: The slot.
        name: Its name, or that of one of its parts.
    """
    if name in slot.parts:
        return slot.parts[name].tensor
    return None if slot.parts else slot.tensor


def copy_(slot: Slot, name: str, value: Tensor) -> None:
    """Writes values into a slot, or into one of its parts.

    Args:
        slot: Where to.
        name: The name of the slot or of the part.
        value: Of its shape; type and device are converted.
    """
    tensor = holder(slot, name)
    if tensor is None:
        values.copy_(slot, value)
    else:
        with torch.no_grad():
            sharding.copy_(tensor, value)
