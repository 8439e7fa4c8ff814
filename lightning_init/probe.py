"""The signal probe: one forward and backward pass through a module, which leaves no trace on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.lending import lent
from lightning_init.report.signal import LayerSignal
from lightning_init.taps import Taps, tensors_in
from lightning_init.wrappers import unwrap

__all__ = ["copied", "probe"]


def probe(
    module: nn.Module,
    batch: Any,
    *,
    step: Callable[[Any], Any] | None = None,
    loss_scale: float = 1.0,
) -> tuple[LayerSignal, ...]:
    """Measures what a batch becomes on its way through a module, and what of the gradient comes back.

    Neither the module (parameters, buffers, gradients, hooks, training mode, lists and counters in its attributes) nor
    the batch, nor any random number generator is changed, also if the pass fails. The module runs in the mode that it
    is in, under the autocast that is active, uncompiled; only statistics of the activations are kept. The pass needs
    the memory of a copy of the weights, besides what a step of training needs.

    Without a loss, the gradient is that of the output's projection onto a fixed random direction of independent
    standard normal numbers. So it starts with std 1 at the output whatever the output's size, and shows what the layers
    make of it; a sum of squares would start with the output itself, and be constant behind a normalisation.

    Args:
        module: The module; a wrapper such as DDP is seen through.
        batch: What the module is called with: a tensor, a tuple or list of arguments, or a mapping of keyword ones.
        step: Called with the batch in place of the module; returns a loss, a mapping that holds one as ``"loss"``, or
            None for a forward pass alone.
        loss_scale: What a loss is multiplied with before the backward pass, against underflow in float16; the gradients
            are those of the loss itself.

    Returns:
        One entry for each layer that was called and gave floating-point numbers, in the order of the calls: modules
        without children and modules with parameters of their own, but for dropout, flattening and losses. Several calls
        of one layer are one entry; of several outputs the first is measured.

    Raises:
        InitError: The module is of a kind that cannot be lent (a ``ScriptModule``, FSDP1).
        Exception: Whatever the module or ``step`` raises.
    """
    inner = unwrap(module)
    with lent(inner), torch.inference_mode(mode=False), torch.enable_grad():
        taps = Taps(inner)
        mine = copied(batch)
        loss: Any
        if step is None:
            roots = [tensor for tensor in tensors_in(_called(inner, mine)) if tensor.requires_grad]
            directions = [_direction(tensor, i) * loss_scale for i, tensor in enumerate(roots)]
        else:
            loss = step(mine)
            loss = loss.get("loss") if isinstance(loss, Mapping) else loss
            roots = [loss] if isinstance(loss, Tensor) and loss.requires_grad else []
            directions = [torch.full_like(root, loss_scale) for root in roots]
        taps.is_recomputing = True
        if roots:
            torch.autograd.backward(roots, directions)
        return taps.signal(loss_scale)


def _called(module: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, list | tuple) else module(batch)


def _direction(like: Tensor, seed: int) -> Tensor:
    """Standard normal numbers, the same in every probe."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def copied(batch: Any) -> Any:
    """A copy of a batch, since a module may write into its input and a gradient may arrive there."""
    if isinstance(batch, Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(copied, batch))
    if type(batch) in (list, tuple):
        return type(batch)(map(copied, batch))
    if type(batch) is dict:
        return {key: copied(item) for key, item in batch.items()}
    return copy.deepcopy(batch)
