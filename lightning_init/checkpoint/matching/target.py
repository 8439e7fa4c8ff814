"""What a checkpoint may fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A parameter or persistent buffer that a checkpoint may fill.

    Attributes:
        name: Its name, relative to the module that is loaded into.
        aliases: Its other names, where it is tied.
        shape: Its shape.
        dtype: The type of its elements.
        is_buffer: It is a buffer.
        parts: The tensors that it is computed from, where it is parametrized. They are filled instead of it if the
            checkpoint has them, and not it.
        owners: The classes of the modules that hold it.
        in_scope: The rule is about it; what is not is there to be seen by adapters.
        is_spared: Something else decides in the end what it holds, so that its shape need not fit.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_buffer: bool
    parts: tuple[Target, ...] = ()
    owners: tuple[type, ...] = ()
    in_scope: bool = True
    is_spared: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All its names."""
        return (self.name, *self.aliases)
