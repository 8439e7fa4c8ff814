"""The same model and config in MMEngine and in this library, for comparisons of the values that come out."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import lightning_init
from lightning_init import InitWarning

with warnings.catch_warnings():
    # What MMEngine imports deprecates much of itself.
    warnings.simplefilter("ignore")
    import mmengine.logging
    import mmengine.model

__all__ = ["MMENGINE", "OURS", "Library", "both", "differing", "prepared", "quiet", "run", "values"]

# Both are modules that offer BaseModule, its containers, initialize and the functions by the same names.
Library: TypeAlias = Any
MMENGINE: Library = mmengine.model
OURS: Library = lightning_init


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps MMEngine from logging every parameter, and this library from telling what is probably not meant."""
    logger = mmengine.logging.MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        # It prints from where it loads a checkpoint.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", InitWarning)
            yield
    finally:
        logger.setLevel(level)


def prepared(model: nn.Module) -> nn.Module:
    """A model whose every value is another one, and the same in every model built alike."""
    with torch.no_grad():
        for i, tensor in enumerate(model.state_dict(keep_vars=True).values()):
            numbers = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
            tensor.copy_(numbers / 1024 + 100 + i)
    return model


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and persistent buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def run(library: Library, build: Callable[[Library], nn.Module]) -> dict[str, Tensor]:
    """What a model holds after ``init_weights``.

    Args:
        library: Where to run it.
        build: Makes the model, whose root is a ``BaseModule``, from the library's classes.
    """
    with quiet():
        model: Any = prepared(build(library))
        model.init_weights()
    return values(model)


def both(build: Callable[[Library], nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a model holds after ``init_weights``, in MMEngine and here."""
    return run(MMENGINE, build), run(OURS, build)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """The names under which two models do not hold the very same values."""
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}
