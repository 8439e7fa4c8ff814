"""Writing parameters of modules at once: all of them or, where one cannot be written, none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_init import parametrized, slot, values
from lightning_init.errors import Fault, InitConfigError
from lightning_init.sharding import is_sharded
from lightning_init.units import held_flat

__all__ = ["Write", "write_all"]


@dataclass(frozen=True)
class Write:
    """One parameter to write.

    Attributes:
        where: Its name for messages.
        module: The module that holds it.
        name: Its attribute there.
        obstacle: Why a tensor of some shape and type could not be filled; None if it can.
        fill: Fills it.
    """

    where: str
    module: nn.Module
    name: str
    obstacle: Callable[[Sequence[int], torch.dtype], str | None]
    fill: Callable[[Tensor], None]

    def refusal(self) -> str | None:
        """Why the parameter cannot be written; None if it can."""
        held = self.module._parameters.get(self.name)
        if held is not None and is_lazy(held):
            return "it has no shape yet; run the module once before"
        if self.name in held_flat(self.module):
            return "it is a part of a flat parameter of FSDP; use init_weights or initialize on the FSDP module"
        tensor = slot.parameter(self.module, self.name)
        if tensor.is_meta:
            return "it is on the meta device and has no storage; materialise it before"
        if is_sharded(tensor):
            return "it is spread over ranks, whose random numbers may differ; use init_weights or initialize"
        reason = self.obstacle(tensor.shape, tensor.dtype)
        if reason is None and self.name in parametrized.parametrizations(self.module):
            reason = parametrized.obstacle(self.module, self.name)
        return reason


def write_all(writes: Sequence[Write]) -> None:
    """Writes parameters.

    Args:
        writes: The parameters.

    Raises:
        InitConfigError: Some of them cannot be written; the error names them all, and nothing has been written.
    """
    faults = [Fault(write.where, f"cannot be written: {reason}") for write in writes if (reason := write.refusal())]
    if faults:
        raise InitConfigError(faults)
    for write in writes:
        values.write(write.module, write.name, write.fill)
