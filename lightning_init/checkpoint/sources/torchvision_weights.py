"""``torchvision://``: the weights that torchvision names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_init.checkpoint.sources import http
from lightning_init.checkpoint.sources.addresses import redacted
from lightning_init.checkpoint.sources.registry import register_source
from lightning_init.errors import checkpoint_error, did_you_mean

__all__ = ["fetch"]

_START = "torchvision://"


@register_source("torchvision")
def fetch(address: str, sha256: str | None) -> Path:
    """The file of weights that torchvision names: ``torchvision://resnet50`` or
    ``torchvision://ResNet50_Weights.IMAGENET1K_V2``.

    Args:
        address: The name of a model, for its default weights, or of one of its weights.
        sha256: The SHA-256 of the file, or its first digits; else those count that are part of its URL.

    Raises:
        CheckpointError: torchvision is missing or does not know the name, or the file cannot be downloaded.
    """  # noqa: D205 - two addresses do not fit into one line
    shown = redacted(address)
    return http.fetch(_url(shown, shown[len(_START) :]), sha256)


def _url(address: str, name: str) -> str:
    try:
        from torchvision import models  # noqa: PLC0415 - an extra
    except ImportError:
        raise checkpoint_error(f'{address!r} needs torchvision: pip install "lightning-init[torchvision]"') from None
    weights: Any
    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (KeyError, ValueError):
        raise checkpoint_error(
            f"torchvision has no weights {name!r}; {did_you_mean(name, _names(models, name))}"
        ) from None
    return str(weights.url)


def _names(models: Any, name: str) -> list[str]:
    known: list[str] = models.list_models()
    if "." not in name:
        return known
    return sorted({str(weights) for model in known for weights in models.get_model_weights(model)})
