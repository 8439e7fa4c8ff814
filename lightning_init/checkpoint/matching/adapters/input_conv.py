"""The first convolution, for images of another number of channels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lightning_init.checkpoint.matching.adapters.base import Adaptation, Misfit, at_least_fp32
from lightning_init.checkpoint.matching.target import Target

__all__ = ["input_conv"]


def input_conv(misfit: Misfit) -> Adaptation | str:
    """Fits the first convolution of a module to another number of input channels.

    To one channel the weights are summed, which is what a grey image in all channels would give. From one or three
    to N they are repeated in turn, cut, and multiplied by old / new channels, so that activations keep their scale:
    the convention of timm's ``adapt_input_conv``. Computed in fp32 or better.

    Returns:
        The adaptation, or why it is none of this adapter's business.
    """
    target, found, wanted = misfit.target, misfit.entry.shape, misfit.target.shape
    if not _is_kernel(target):
        return "it is not the weight of a convolution"
    if len(found) != len(wanted) or found[:1] + found[2:] != wanted[:1] + wanted[2:]:
        return "more than the number of input channels differs"
    first = next(other for other in misfit.targets if _is_kernel(other))
    if first.name != target.name:
        return f"it is not the first convolution, which is {first.name!r}"
    old, new = found[1], wanted[1]
    if new == 1:
        return Adaptation(f"{old} -> 1 input channels: summed", _summed)
    if old in (1, 3):
        what = f"{old} -> {new} input channels: repeated in turn, times {old}/{new}"
        return Adaptation(what, partial(_repeated, channels=new))
    return f"there is no convention for {old} -> {new} input channels, only for N -> 1, 1 -> N and 3 -> N"


def _is_kernel(target: Target) -> bool:
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    held = bool(target.owners) and all(issubclass(owner, convolutions) for owner in target.owners)
    return held and 3 <= len(target.shape) <= 5


def _summed(value: Tensor) -> Tensor:
    return at_least_fp32(value).sum(dim=1, keepdim=True)


def _repeated(value: Tensor, *, channels: int) -> Tensor:
    old = value.shape[1]
    turns = torch.arange(channels, device=value.device) % old
    return at_least_fp32(value).index_select(1, turns) * (old / channels)
