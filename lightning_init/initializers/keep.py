"""The rule that nothing is to be written."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_init.initializers.base import INITIALIZERS, Initializer, call_text
from lightning_init.scope import LayerSpec, layer_names

__all__ = ["KeepInit"]


@INITIALIZERS.register
@dataclass(frozen=True, kw_only=True)
class KeepInit(Initializer):
    """Protects what its rule covers from every other rule, from checkpoints and from ``init_weights`` methods.

    Args:
        layer: The classes of modules to protect.

    >>> KeepInit(layer="Linear").describe()
    'Keep()'
    """

    layer: LayerSpec = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_names(self.layer))

    def describe(self) -> str:
        """Its short name."""
        return call_text(self, {})
