"""The adapters that there are, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_init.checkpoint.matching.adapters.base import Adapters
from lightning_init.checkpoint.matching.adapters.classifier import classifier
from lightning_init.checkpoint.matching.adapters.input_conv import input_conv
from lightning_init.checkpoint.matching.adapters.pos_embed import pos_embed
from lightning_init.errors import Fault, did_you_mean

__all__ = ["ADAPTERS", "check_adapters", "register_adapter"]

ADAPTERS = Adapters({"input_conv": input_conv, "classifier": classifier, "pos_embed": pos_embed})
"""All adapters by name, in the order in which they are asked."""

register_adapter = ADAPTERS.register


def check_adapters(names: Any) -> list[Fault]:
    """What is wrong with a choice of adapters.

    Args:
        names: What a config says: a list of names, or None for all.

    >>> print(*check_adapters(["input_cnv"]))
    adapters[0]: unknown adapter 'input_cnv'; did you mean 'input_conv'?
    """
    if names is None:
        return []
    if isinstance(names, str) or not isinstance(names, Sequence):
        return [Fault("adapters", f"must be a list of names, or None for all, got {names!r}")]
    faults = []
    for i, name in enumerate(names):
        if not isinstance(name, str):
            faults.append(Fault(f"adapters[{i}]", f"must be the name of an adapter, got {name!r}"))
        elif name not in ADAPTERS:
            faults.append(Fault(f"adapters[{i}]", f"unknown adapter {name!r}; {did_you_mean(name, ADAPTERS)}"))
    return faults
