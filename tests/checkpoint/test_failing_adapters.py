"""Adapters that take a misfit and then fail on its values: nothing has been written by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import CheckpointError, PretrainedInit, init_weights
from lightning_init.checkpoint import Adaptation, Misfit
from lightning_init.checkpoint.matching.adapters import Adapters
from lightning_init.modules import BaseModule

FAILURES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a shape": (lambda value: value, "it made a tensor of shape (4, 3), not (5, 3)"),
    "no tensor": (lambda value: value.tolist(), "it made no tensor, but list"),
    "an error": (lambda value: value.view(7), "RuntimeError: shape '[7]' is invalid for input of size 12"),
}


def net(rows: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, rows, bias=False))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(net(4).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.fixture(params=FAILURES)
def reason(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Registers an adapter that fails, and gives the message."""
    table = Adapters({})
    monkeypatch.setattr("lightning_init.checkpoint.matching.adapt.ADAPTERS", table)
    monkeypatch.setattr("lightning_init.checkpoint.matching.adapters.registry.ADAPTERS", table)
    apply, told = FAILURES[request.param]

    @table.register("failing")
    def failing(_: Misfit) -> Adaptation:
        return Adaptation("failing", apply)

    return told


def refused(module: nn.Module, run: Callable[[], object]) -> str:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        run()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return str(caught.value)


def test_a_rule_says_where_it_stands_and_nothing_is_written(checkpoint: Path, reason: str) -> None:
    module = net(5)
    rules = [
        {"type": "Constant", "layer": "Linear", "val": 1},
        {"type": "Pretrained", "checkpoint": checkpoint, "on_mismatch": "adapt"},
    ]
    told = refused(module, lambda: init_weights(module, rules, seed=0))
    assert told == (
        f"init_cfg[1].adapters: the adapter 'failing' cannot fit '1.weight' of {str(checkpoint)!r} to '1.weight': "
        f"{reason}"
    )


def test_a_part_that_a_method_initialises(checkpoint: Path, reason: str) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(5)

        def init_weights(self) -> None:
            init_weights(self.inner, {"type": "Pretrained", "checkpoint": checkpoint, "on_mismatch": "adapt"})

    module = Holder()
    assert reason in refused(module, lambda: init_weights(module, seed=0))


def test_rules_that_a_method_runs_by_super(checkpoint: Path, reason: str) -> None:
    class Holder(BaseModule):
        def __init__(self) -> None:
            super().__init__({"type": "Pretrained", "checkpoint": checkpoint, "on_mismatch": "adapt", "into": "inner"})
            self.inner = net(5)

        def init_weights(self) -> None:
            nn.init.ones_(self.inner[0].weight)  # type: ignore[arg-type]
            super().init_weights()

    module = Holder()
    assert reason in refused(module, lambda: init_weights(module, seed=0))


def test_a_call(checkpoint: Path, reason: str) -> None:
    module = net(5)
    told = refused(module, lambda: PretrainedInit(checkpoint, on_mismatch="adapt")(module))
    assert told.startswith("adapters: ")
    assert told.endswith(reason)
