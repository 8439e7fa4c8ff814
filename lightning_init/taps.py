"""Listens to the layers of a module while it runs: statistics of what comes out of them, nothing of it kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.loss import _Loss

from lightning_init.chunks import is_measurable
from lightning_init.moments import Moments, merge, moments, statistics
from lightning_init.report.signal import LayerSignal
from lightning_init.sharding import is_sharded, local
from lightning_init.slot import parameter_names
from lightning_init.tree import walk
from lightning_init.wrappers import class_name

__all__ = ["Taps", "tensors_in"]

_SILENT = (nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd, _Loss)
"""They pass on what they get, or give one number."""

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a value: through tuples, lists, mappings and dataclasses, in their order."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from tensors_in(getattr(value, part.name))


@dataclass
class _Tap:
    """What one layer gave, all its calls taken together.

    Attributes:
        name: Its qualified name.
        layer: Its class.
        kind: As in `LayerSignal`.
        output: The moments of what came out.
        gradient: Those of the gradient with respect to it.
        dead: For each unit, whether it was zero for everything; None before the first call.
    """

    name: str
    layer: str
    kind: str
    output: Moments = field(default_factory=Moments)
    gradient: Moments = field(default_factory=Moments)
    dead: Tensor | None = None

    def hear(self, values: Tensor, units: int) -> None:
        """Takes an output, whose units lie along one dimension."""
        self.output = merge(self.output, moments(values))
        others = [i for i in range(values.dim()) if i != units]
        dead = values.amax(others).eq(0) & values.amin(others).eq(0) if others else values.eq(0)
        same = self.dead is not None and self.dead.shape == dead.shape
        self.dead = dead & self.dead if same and self.dead is not None else dead

    def hear_gradient(self, gradient: Tensor) -> None:
        """Takes a gradient; nothing is returned, so it goes on as it is."""
        with torch.no_grad():
            self.gradient = merge(self.gradient, moments(_local(gradient.detach())))

    def signal(self, depth: int, scale: float) -> LayerSignal:
        """What was heard, as data."""
        found = statistics(self.output)
        return LayerSignal(
            name=self.name,
            layer=self.layer,
            depth=depth,
            mean=found["mean"],
            std=found["std"],
            dead=0.0 if self.dead is None else self.dead.double().mean().item(),
            gradient_std=statistics(self.gradient)["std"] / scale,
            kind=self.kind,
            units=0 if self.dead is None else self.dead.numel(),
        )


class Taps:
    """Hooks on all layers of a module.

    A layer is a module without children or with parameters of its own; not the root, unless it has no children.

    Args:
        module: The module, out of its wrappers.

    Attributes:
        is_recomputing: The backward pass runs: what is called now, by activation checkpointing, has been heard before.
    """

    def __init__(self, module: nn.Module) -> None:
        self.is_recomputing = False
        self._layers = {layer: (name, kind) for name, layer in walk(module) if (kind := _kind(name, layer))}
        self._taps: dict[nn.Module, _Tap] = {}
        # Where the units are, as the last layer that tells had it.
        self._has_channels_first = False
        for layer in self._layers:
            layer.register_forward_hook(self._hear)

    def signal(self, scale: float = 1.0) -> tuple[LayerSignal, ...]:
        """What was heard, in the order of the first calls.

        Args:
            scale: What the loss was multiplied with.
        """
        return tuple(tap.signal(depth, scale) for depth, tap in enumerate(self._taps.values()))

    def _hear(self, layer: nn.Module, given: Any, output: Any) -> None:  # noqa: ARG002  # the signature of a hook
        heard = next(tensors_in(output), None)
        # One number is no signal: a loss, a metric.
        if heard is None or heard.numel() < 2 or not is_measurable(_local(heard)):
            return
        name, kind = self._layers[layer]
        tap = self._taps.setdefault(layer, _Tap(name, class_name(layer), kind))
        if not self.is_recomputing:
            with torch.no_grad():
                values = _local(heard.detach())
                tap.hear(values, self._units(layer, values))
        if heard.requires_grad:
            heard.register_hook(tap.hear_gradient)

    def _units(self, layer: nn.Module, values: Tensor) -> int:
        """The dimension of channels or features."""
        if isinstance(layer, _CHANNELS_FIRST):
            self._has_channels_first = True
        elif isinstance(layer, _FEATURES_LAST):
            self._has_channels_first = False
        return 1 if self._has_channels_first and values.dim() > 2 else values.dim() - 1


def _kind(name: str, layer: nn.Module) -> str:
    """The kind of a layer; empty for what is none."""
    if isinstance(layer, _SILENT) or "parametrizations" in name.split("."):
        return ""
    has_weights = bool(parameter_names(layer))
    is_leaf = not (layer._modules.keys() - {"parametrizations"})
    if not is_leaf and not (has_weights and name):
        return ""
    is_norm = isinstance(layer, _NORMS) or "norm" in class_name(layer).lower()
    return "norm" if is_norm else "weights" if has_weights else "other"


def _local(tensor: Tensor) -> Tensor:
    """The share of this rank, of what is spread over ranks."""
    return local(tensor) if is_sharded(tensor) else tensor
