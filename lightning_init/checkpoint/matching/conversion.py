"""Which types may become which."""

from __future__ import annotations

import torch

from lightning_init.checkpoint.base import Entry
from lightning_init.checkpoint.matching.target import Target

__all__ = ["loss", "type_name"]


def loss(entry: Entry, target: Target) -> str:
    """What speaks against turning values into the target's type; empty if nothing does.

    Rounding to fewer digits is what a user asks for who loads into a model of lower precision, and integers may become
    other numbers: that is told elsewhere, no more. Only those of one byte are refused for a parameter, since they are
    what quantisation leaves. Values are not looked at.

    Args:
        entry: What the checkpoint has.
        target: What it would fill.

    Returns:
        The end of a sentence that starts with the key.
    """
    old, new = entry.dtype, target.dtype
    if old.is_complex and not new.is_complex:
        return f"holds complex numbers, {target.name!r} real ones"
    if old.is_floating_point and _is_whole(new):
        return (
            f"holds {type_name(old)}, {target.name!r} {type_name(new)}, which would cut off what is behind the point; "
            "convert it, or leave it out with exclude"
        )
    if _is_code(old) and not _is_whole(new) and not target.is_buffer:
        return (
            f"holds {type_name(old)}, the parameter {target.name!r} {type_name(new)}: these look like quantised "
            "weights, which mean nothing without their scales; convert them, or leave them out with exclude"
        )
    return ""


def type_name(dtype: torch.dtype) -> str:
    """What a type is called.

    >>> type_name(torch.float16)
    'float16'
    """
    return str(dtype).removeprefix("torch.")


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def _is_code(dtype: torch.dtype) -> bool:
    return _is_whole(dtype) and dtype.itemsize == 1 and dtype != torch.bool
