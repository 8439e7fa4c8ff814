"""The last layer, for another number of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_init.checkpoint.matching.adapters.base import Adaptation, Misfit
from lightning_init.checkpoint.matching.target import Target

__all__ = ["classifier"]


def classifier(misfit: Misfit) -> Adaptation | str:
    """Drops the last layer of a module where it has another number of outputs.

    A classifier is a ``Linear`` or a convolution of kernel size 1 (nothing else may hold its tensors, such as an
    embedding that is tied to it) of which weight and bias have another first dimension, and nothing else another one.
    Behind it, in the order of registration, only layers of which the same holds may follow (several heads), and buffers
    without dimensions. Anything else behind it could take what the layer puts out, so that the layer would be a hidden
    one; this adapter then leaves it alone, and `exclude` is there for a user who knows better.

    Returns:
        The adaptation, or why it is none of this adapter's business.
    """
    target, targets = misfit.target, misfit.targets
    if target.is_buffer or not _is_dense(target):
        return "it is not held by Linear layers or 1x1 convolutions alone"
    start = misfit.position
    while start and _layer(targets[start - 1]) == _layer(target):
        start -= 1
    rest = start
    while rest < len(targets):
        layer = _layer(targets[rest])
        end = rest
        while end < len(targets) and _layer(targets[end]) == layer:
            end += 1
        if not _is_head(targets[rest:end], misfit):
            if rest == start:
                return "weight and bias do not differ in the number of outputs alone"
            return f"{targets[rest].name!r} comes after it and could take what it puts out"
        rest = end
    return Adaptation(f"{misfit.entry.shape[0]} -> {target.shape[0]} outputs: left to the other rules", drop=True)


def _layer(target: Target) -> str:
    return target.name.rpartition(".")[0]


def _is_dense(target: Target) -> bool:
    return bool(target.owners) and all(
        issubclass(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) for owner in target.owners
    )


def _is_head(layer: Sequence[Target], misfit: Misfit) -> bool:
    """Whether a layer has another number of outputs in the checkpoint and is the same otherwise."""
    held = {target.name.rpartition(".")[2]: target for target in layer if not (target.is_buffer and not target.shape)}
    if not held:
        return True
    weight = held.get("weight")
    if weight is None or set(held) - {"weight", "bias"} or not all(map(_is_dense, held.values())):
        return False
    found = misfit.entries.get(weight.name)
    if found is None or found.shape[1:] != weight.shape[1:] or found.shape[:1] == weight.shape[:1]:
        return False
    bias = misfit.entries.get(held["bias"].name) if "bias" in held else None
    return set(weight.shape[2:]) <= {1} and (bias is None or bias.shape == found.shape[:1])
