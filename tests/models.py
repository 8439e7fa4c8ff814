"""What the tests of the engine share: small modules, rules of constants, checkpoints, and looking at weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lightning_init.digests import digest
from lightning_init.initializers.base import INITIALIZERS, Fans, LawInitializer
from lightning_init.initializers.laws import ConstantLaw, Law
from lightning_init.tree import slots

__all__ = [
    "CountingInit",
    "Holder",
    "as_before",
    "constant",
    "digests",
    "linear",
    "pretrained",
    "threads",
    "value",
    "values",
]


def linear(value: float = 0.0) -> nn.Linear:
    """A Linear of one weight and one bias, both of one value."""
    made = nn.Linear(1, 1)
    nn.init.constant_(made.weight, value)
    nn.init.constant_(made.bias, value)
    return made


class Holder(nn.Module):
    """A plain module with the given children and, if it is given, an ``init_cfg``."""

    def __init__(self, init_cfg: Any = None, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        if init_cfg is not None:
            self.init_cfg = init_cfg

    def forward(self, given: Tensor) -> Tensor:
        return given


def constant(val: float, **rest: Any) -> dict[str, Any]:
    """A rule that fills weights and biases with one value; for every Linear, unless a scope is given."""
    scope = {} if {"layer", "name", "params"} & set(rest) else {"layer": "Linear"}
    return {"type": "Constant", "val": val, "bias": val, **scope, **rest}


def pretrained(path: Path, tensors: Mapping[str, float | Tensor], **rest: Any) -> dict[str, Any]:
    """A rule that loads a checkpoint, which is written to ``path``; a number stands for a Linear's weight or bias."""
    torch.save(
        {
            key: given if isinstance(given, Tensor) else torch.full((1,) if key.endswith("bias") else (1, 1), given)
            for key, given in tensors.items()
        },
        path,
    )
    return {"type": "Pretrained", "checkpoint": str(path), **rest}


def value(tensor: Tensor) -> float:
    """The one value that all elements have."""
    found = set(tensor.detach().flatten().tolist())
    assert len(found) == 1, found
    return float(found.pop())


def values(module: nn.Module) -> dict[str, float]:
    """The one value of each parameter."""
    return {name: value(parameter) for name, parameter in module.named_parameters()}


def digests(module: nn.Module) -> dict[str, str]:
    """The bits of everything that a module holds, as digests."""
    return {slot.name: digest(slot.tensors) for slot in slots(module)}


@contextmanager
def as_before(module: nn.Module, error: type[Exception], match: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """An error is raised inside, and no bit of the module, nor torch's generator, is changed by what failed."""
    before, generator = digests(module), torch.get_rng_state()
    with pytest.raises(error, match=match) as info:
        yield info
    assert digests(module) == before
    assert torch.equal(torch.get_rng_state(), generator)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within, torch has so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@INITIALIZERS.register("CountingForTests")
@dataclass(frozen=True)
class CountingInit(LawInitializer):
    """Counts how often it fills a weight, under the label that it was given."""

    label: str = ""
    filled: ClassVar[Counter[str]] = Counter()

    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        return ConstantLaw(0.5)

    def write_(self, tensor: Tensor, generators: Any, workers: Any = None) -> None:
        self.filled[self.label] += 1
        super().write_(tensor, generators)
