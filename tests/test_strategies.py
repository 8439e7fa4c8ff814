"""Which strategies the callback works under, and what to do under others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from lightning_init import InitError, InitWeightsCallback, init_weights
from lightning_init.strategies import check_strategy
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, RecordingDDP, digests, fit
from tests.models import constant
from tests.trainers import Net, Snapshots, trainer


class Unknown(Strategy):
    """One process on the CPU, as somebody might write it."""

    global_rank = local_rank = 0

    def __init__(self) -> None:
        super().__init__(accelerator=CPUAccelerator())

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_global_zero(self) -> bool:
        return True

    def model_to_device(self) -> None:
        pass

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    def all_gather(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj


class SelfInitialised(Net):
    """It does without the callback."""

    def configure_model(self) -> None:
        if not getattr(self, "is_init", False):
            init_weights(self, seed=0)


class DeepSpeedStrategy(DDPStrategy):
    """Known by its name: the package need not be there."""

    config: dict[str, Any] | None = None


class SingleDeviceXLAStrategy(SingleDeviceStrategy):
    """Known by its name as well."""


class Own(FSDPStrategy):
    """Of a user, who changes nothing about parameters."""


def told_about(strategy: Strategy) -> str:
    with pytest.raises(InitError) as caught:
        check_strategy(strategy)
    return str(caught.value)


def test_what_is_refused() -> None:
    stages = {2: DeepSpeedStrategy(), 3: DeepSpeedStrategy()}
    for stage, strategy in stages.items():
        strategy.config = {"zero_optimization": {"stage": stage}}
        assert f"under DeepSpeedStrategy (ZeRO stage {stage}), where it has never been run" in told_about(strategy)
    # Of stage 3, parameters are split as soon as configure_model makes them.
    assert told_about(stages[2]).endswith(
        "or, where configure_model makes layers, init_weights(self, seed=...) at its end"
    )
    assert told_about(stages[3]).endswith("before trainer.fit, in place of the callback")
    assert "under DeepSpeedStrategy (ZeRO stage 0)" in told_about(DeepSpeedStrategy())
    assert "under SingleDeviceXLAStrategy, where" in told_about(SingleDeviceXLAStrategy())


@pytest.mark.parametrize(
    "strategy",
    [Own(), DDPStrategy(static_graph=True, find_unused_parameters=True), SingleDeviceStrategy()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_what_is_let_through(strategy: Strategy) -> None:
    check_strategy(strategy)


def test_what_to_do_under_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(InitError, match="under Unknown, where it has never been run"):
        trainer(tmp_path, InitWeightsCallback(log=()), accelerator="auto", strategy=Unknown()).fit(Net())
    seen = Snapshots()
    before, late = Net(constant(3)), SelfInitialised(constant(4))
    init_weights(before, seed=0)
    for module in (before, late):
        run = trainer(tmp_path, seen, accelerator="auto", strategy=Unknown())
        run.fit(module)
        run.test(module, verbose=False)
    assert [set(weights["body.weight"].unique().tolist()) for weights in seen.at_start] == [{3.0}, {4.0}]


def of_ddp() -> list[dict[str, str]]:
    """The weights at the start under DDP in its variants, on ranks that started from unlike values."""
    torch.manual_seed(torch.distributed.get_rank())
    variants: list[dict[str, Any]] = [
        {"init_sync": False},
        {"static_graph": True, "gradient_as_bucket_view": True},
        {"find_unused_parameters": True, "ddp_comm_hook": default_hooks.fp16_compress_hook},
    ]
    found = []
    for arguments in variants:
        module = LitNet()
        callback = InitWeightsCallback(seed=3, log=())
        fit(module, callback, RecordingDDP(process_group_backend="gloo", **arguments), 2)
        found.append({name: bits for name, bits in digests(module).items() if "plain" not in name})
    return found


def test_variants_of_ddp() -> None:
    module = LitNet()
    init_weights(module, seed=3)
    alone = {name: bits for name, bits in digests(module).items() if "plain" not in name}
    assert run_ranks(2, of_ddp) == [[alone] * 3] * 2
