"""Checkpoints and modules of which only names and shapes are looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint, Entry
from lightning_init.checkpoint.matching.match import match
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import CheckpointError


class Shapes(Checkpoint):
    """Names and shapes are all that is looked at."""

    def __init__(self, dtype: torch.dtype = torch.float32, /, **shapes: tuple[int, ...]) -> None:
        self.source = "w.pth"
        self.entries = {key.replace("_", "."): Entry(shape, dtype) for key, shape in shapes.items()}

    def read(self, key: str) -> Tensor:
        raise AssertionError(key)


def target(name: str, *shape: int, aliases: tuple[str, ...] = (), buffer: bool = False) -> Target:
    return Target(name, aliases, shape, torch.float32, buffer)


def told(checkpoint: Checkpoint, *targets: Target, rules: KeyRules, **options: Any) -> dict[str, str]:
    with pytest.raises(CheckpointError) as caught:
        match(checkpoint, targets, rules, **options)
    return {fault.where: fault.what for fault in caught.value.faults}


NET = (target("net.a.w", 2), target("net.a.b", 2), target("net.head.w", 3), target("net.step", buffer=True))
