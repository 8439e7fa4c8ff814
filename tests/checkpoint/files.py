"""Files for the tests of checkpoints. Nothing heavy is imported, since ranks import it when they start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["Save", "bits", "save_legacy", "save_safetensors", "save_zip", "tensors"]

Save = Callable[[object, Path], None]


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(content: Any, path: Path) -> None:
    save_file(content, path)


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(4, 3, generator=generator)
    return {
        "conv.weight": noise,
        "conv.bias": torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45]),
        "half": noise.half(),
        "brain": noise.bfloat16(),
        "double": noise.double(),
        "count": torch.tensor(2**40 + 1),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "eight": noise.to(torch.float8_e4m3fn),
        "complex": torch.complex(noise, -noise),
        "empty": torch.empty(0, 5),
    }


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
