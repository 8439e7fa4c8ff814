"""Computing without gradients, at no cost where they are off already."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["no_gradients"]

_off_already = nullcontext()


def no_gradients() -> AbstractContextManager[None]:
    """Within, no gradient is recorded.

    >>> with no_gradients():
    ...     torch.is_grad_enabled()
    False
    """
    # Entering and leaving torch's costs more than to fill a small tensor.
    return torch.no_grad() if torch.is_grad_enabled() else _off_already
