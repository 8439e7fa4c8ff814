"""Dotted names: the parts that wrappers put in, and how names are shown."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WRAPPER_PARTS", "splits", "without_wrappers"]

WRAPPER_PARTS = frozenset(
    {"_checkpoint_wrapped_module", "_forward_module", "_fsdp_wrapped_module", "_orig_mod", "module"}
)
"""Parts of a key that DDP, FSDP, DeepSpeed, ``torch.compile`` and checkpoint wrappers put in."""


def without_wrappers(key: str) -> str:
    """A key without the parts that wrappers put in, wherever they stand.

    Whole parts only, and never the last one, which names the tensor.

    >>> without_wrappers("module.net._orig_mod.modules.weight")
    'net.modules.weight'
    """
    *path, last = key.split(".")
    return ".".join([*(part for part in path if part not in WRAPPER_PARTS), last])


def splits(name: str) -> Iterable[tuple[str, str]]:
    """Every (head, tail) of a dotted name."""
    parts = name.split(".")
    return [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
