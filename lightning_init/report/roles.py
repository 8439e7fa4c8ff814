"""What a parameter is for, as far as its module tells: a weight matrix, the scale of a normalisation, a padding row."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from torch import nn

from lightning_init.slot import Slot
from lightning_init.values import padding_row
from lightning_init.wrappers import class_of

__all__ = ["is_scale", "padding", "units"]

_NORM = re.compile(r"Norm(?![a-z])")
_SCALES = {"weight", "gamma", "scale", "g"}
# As tuples: a union would be made anew for every parameter.
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def units(slot: Slot) -> int:
    """How many units of a layer see the same inputs through a weight matrix.

    Units that see the same inputs through the same numbers do the same. Embeddings have no inputs, and in a depthwise
    convolution each unit has an input of its own.

    Returns:
        That number; zero for what is no weight matrix, such as positions, tokens, biases, or scales.

    >>> from lightning_init.tree import slots
    >>> [units(slots(module)[0]) for module in (nn.Linear(5, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Embedding(7, 2))]
    [3, 1, 0]
    """
    # Of fewer dimensions there is no matrix.
    return max(_units(module, name, slot.shape) for module, name in slot.places) if len(slot.shape) > 1 else 0


def is_scale(slot: Slot) -> bool:
    """Whether it is the scale of a normalisation layer; these are known by the names of their classes.

    >>> from lightning_init.tree import slots
    >>> [is_scale(slot) for slot in slots(nn.Sequential(nn.LayerNorm(4), nn.Linear(2, 2, bias=False)))]
    [True, False, False]
    """
    norms = [module for module, name in slot.places if name in _SCALES and _is_norm(module)]
    if not norms:
        return False
    is_vector = math.prod(slot.shape) == max(slot.shape, default=1)
    return is_vector or any(isinstance(module, nn.LayerNorm | nn.RMSNorm) for module in norms)


def padding(slot: Slot) -> int:
    """How many elements belong to the padding rows of embeddings, which no rule fills."""
    rows = {padding_row(*place) for place in slot.places} - {None}
    return len(rows) * math.prod(slot.shape[1:]) if rows else 0


def _is_norm(module: nn.Module) -> bool:
    return _is_class_of_norm(class_of(module))


@lru_cache(maxsize=1024)
def _is_class_of_norm(cls: type) -> bool:
    return any(_NORM.search(base.__name__) for base in cls.__mro__)


def _units(module: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    # `weight_g` of the old weight norm holds lengths.
    is_weight = name != "weight_g" and (name.startswith("weight") or name.endswith("weight"))
    if not is_weight or _is_norm(module) or isinstance(module, _EMBEDDINGS):
        return 0
    found = shape[0]
    if isinstance(module, _CONVOLUTIONS):
        found = shape[0] // module.groups
    elif isinstance(module, _TRANSPOSED):
        found = shape[1]
    elif isinstance(module, _RECURRENT):
        # Its gates do different things with the same numbers.
        found = min(shape[0], int(module.hidden_size))
    elif isinstance(module, nn.MultiheadAttention):
        found = min(shape[0], module.embed_dim)
    elif type(module).__name__ == "Conv1D":
        # That of transformers is a transposed Linear.
        found = shape[-1]
    elif not isinstance(module, nn.Linear) and shape[1] == 1:
        # Of a layer that nobody knows, what has the shape of a vector scales.
        found = 0
    return found
