"""What a module says of itself: its ``init_cfg``, and whether it is initialised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SAID", "carried_by", "is_initialised", "own_attribute", "says_anything"]

SAID = frozenset({"init_cfg", "init_weights", "is_init"})
"""The attributes by which a module says something of its initialisation."""


def says_anything(cls: type) -> bool:
    """Whether a class says something of the initialisation of its modules."""
    return any(hasattr(cls, name) for name in SAID)


def carried_by(module: Any) -> Any:
    """The ``init_cfg`` of a module's instance or class; None if it has none or an empty one."""
    init_cfg = own_attribute(module, "init_cfg")
    if isinstance(init_cfg, str | bytes):
        return init_cfg
    return None if isinstance(init_cfg, Mapping | Sequence) and len(init_cfg) == 0 else init_cfg


def is_initialised(module: Any) -> bool:
    """The module says that its weights are what they should be."""
    return own_attribute(module, "is_init") is True


def own_attribute(module: Any, name: str) -> Any:
    """What a module's instance or class says itself under a name, properties included; None if nothing.

    A ``__getattr__`` that hands out what a wrapped module has, as adapters do, would say it a second time.
    """
    if name not in vars(module) and not hasattr(type(module), name):
        # Said of most modules, and an exception costs more.
        return None
    try:
        return object.__getattribute__(module, name)
    except AttributeError:
        return None
