"""What a rule of an ``init_cfg`` is, once it has been read."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.keep import KeepInit
from lightning_init.scope import Scope

__all__ = ["Rule"]


@dataclass(frozen=True)
class Rule:
    """One rule of an ``init_cfg``.

    Attributes:
        where: Where it was declared, such as ``"LitNet.init_cfg[0].override[1]"``.
        initializer: What it writes.
        scope: What it writes to, relative to the module that carries the config.
        overrides: Rules that follow it.
        is_override: It is one of those: everything at and below its ``name`` is meant, whatever the class.
        bias_by_initializer: A ``bias`` in the scope is filled by the initializer itself, since the rule names nothing
            else and gives no value for it.
    """

    where: str
    initializer: Initializer
    scope: Scope
    overrides: tuple[Rule, ...] = ()
    is_override: bool = False
    bias_by_initializer: bool = False

    @property
    def is_pretrained(self) -> bool:
        """It loads a checkpoint."""
        return isinstance(self.initializer, PretrainedInit)

    @property
    def is_keep(self) -> bool:
        """It protects what it covers."""
        return isinstance(self.initializer, KeepInit)
