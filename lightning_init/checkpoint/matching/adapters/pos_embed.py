"""Positional embeddings of a grid, for a grid of another size."""

from __future__ import annotations

from functools import partial
from math import isqrt

import torch
from torch import Tensor, nn

from lightning_init.checkpoint.matching.adapters.base import Adaptation, Misfit, at_least_fp32

__all__ = ["pos_embed"]

_MOST_PREFIX_TOKENS = 8


def pos_embed(misfit: Misfit) -> Adaptation | str:
    """Interpolates 2-D positional embeddings to another grid, as the ViT paper does for other resolutions.

    (Dosovitskiy et al. 2021, section 3.2; bicubic as in DeiT, Touvron et al. 2021, here antialiased and in fp32 or
    better.) Layouts are (1, N, D), (N, D) and (1, H, W, D), with "pos" in one of the last two parts of the name. Of N
    positions the first p, at most 8, are tokens without a place in the grid (class, distillation, registers), which are
    kept bit for bit: p is the smallest number that leaves a square on both sides.

    Positions of a text look the same where their numbers are squares, and must not be mixed: (N, D) is taken only
    with p > 0, and it, as well as (1, N, D) with p = 0, only in a module with a 2-D convolution (which makes patches).

    Returns:
        The adaptation, or why it is none of this adapter's business.
    """
    found, wanted = misfit.entry.shape, misfit.target.shape
    if not any("pos" in part.lower() for part in misfit.target.name.split(".")[-2:]):
        return "its name does not have 'pos' in it"
    if len(found) != len(wanted) or found[-1:] != wanted[-1:]:
        return "the number of dimensions, or the last of them, differs"
    if len(found) not in (2, 3, 4) or (len(found) > 2 and (found[0], wanted[0]) != (1, 1)):
        return "its layout is not (1, N, D), (N, D) or (1, H, W, D)"
    if len(found) == 4:
        return _resized(0, (found[1], found[2]), (wanted[1], wanted[2]), wanted)
    return _from_rows(misfit, found[-2], wanted[-2])


def _from_rows(misfit: Misfit, found: int, wanted: int) -> Adaptation | str:
    """The adaptation of positions that are numbered through, or why they are not known to be those of a grid."""
    prefix = _prefix(found, wanted)
    if prefix is None:
        return f"{found} and {wanted} positions are not two square grids after the same number of other tokens"
    in_rows = len(misfit.target.shape) == 2
    if in_rows and not prefix:
        return f"{found} and {wanted} positions without other tokens may be those of a text"
    if (in_rows or not prefix) and not _has_patches(misfit):
        return "the module has no 2-D convolution, so the positions may be those of a text"
    old, new = isqrt(found - prefix), isqrt(wanted - prefix)
    return _resized(prefix, (old, old), (new, new), misfit.target.shape)


def _prefix(old: int, new: int) -> int | None:
    """How many tokens come before the grids; None where there are none such."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, old - 1, new - 1) + 1):
        if all(isqrt(number - prefix) ** 2 == number - prefix for number in (old, new)):
            return prefix
    return None


def _has_patches(misfit: Misfit) -> bool:
    return any(
        issubclass(owner, nn.Conv2d) and len(target.shape) == 4 for target in misfit.targets for owner in target.owners
    )


def _resized(prefix: int, old: tuple[int, int], new: tuple[int, int], shape: tuple[int, ...]) -> Adaptation:
    kept = f", {prefix} other tokens kept" if prefix else ""
    what = f"{old[0]}x{old[1]} -> {new[0]}x{new[1]} positions: bicubic, antialiased{kept}"
    return Adaptation(what, partial(_interpolated, prefix=prefix, old=old, new=new, shape=shape))


def _interpolated(
    value: Tensor, *, prefix: int, old: tuple[int, int], new: tuple[int, int], shape: tuple[int, ...]
) -> Tensor:
    rows = at_least_fp32(value).reshape(-1, shape[-1])
    grid = rows[prefix:].reshape(1, *old, shape[-1]).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    made = grid.permute(0, 2, 3, 1).reshape(-1, shape[-1])
    return torch.cat([rows[:prefix], made]).reshape(shape)
