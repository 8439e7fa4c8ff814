"""The callback under ``FSDPStrategy`` (FSDP1), on CPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.wrap import wrap

from lightning_init import InitWeightsCallback
from lightning_init.digests import digest
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, Tail, loader, rules, trainer
from tests.distributed.writers import CpuFSDP

SEED = 7


class FlatNet(LitNet):
    """`LitNet` with a buffer that no rule fills, and a layer whose weight is that of another one.

    Args:
        init_cfg: Its config.
        on_meta: It is built without storage.
        wraps: The layers that it wraps on its own.
        lr: The rate that it learns at.
    """

    def __init__(
        self, init_cfg: Any = None, *, on_meta: bool = False, wraps: tuple[str, ...] = (), lr: float = 0.0
    ) -> None:
        with torch.device("meta" if on_meta else "cpu"):
            super().__init__(init_cfg)
            self.norm = nn.BatchNorm1d(6)
            self.twin = nn.Linear(24, 6, bias=False)
        self.twin.weight = self.head.weight
        self.wraps = wraps
        self.lr = lr

    def configure_model(self) -> None:
        for name in self.wraps:
            setattr(self, name, wrap(getattr(self, name)))

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(batch).repeat(1, 3))
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.model is not None
        return torch.optim.SGD(self.trainer.model.parameters(), lr=self.lr)


def whole(module: nn.Module) -> dict[str, str]:
    """The bits of all parameters and buffers, put together."""
    with FullyShardedDataParallel.summon_full_params(module, writeback=False):
        held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
        return {name.replace("_fsdp_wrapped_module.", ""): digest([tensor]) for name, tensor in held}


class Seen(Callback):
    """The weights at the start of training, and the report."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = whole(trainer.strategy.model)


Fitted = tuple[dict[str, str], dict[str, list[float]], str]


def fitted(strategy: Any, **arguments: Any) -> Fitted:
    torch.manual_seed(3)
    seen, callback = Seen(), InitWeightsCallback(seed=SEED, log=())
    made = trainer(strategy=strategy, devices=1 if strategy == "auto" else 2, callbacks=[seen, callback])
    made.fit(FlatNet(rules(), **arguments), loader())
    assert callback.report is not None
    measured = {row.name: list((row.statistics or {}).values()) for row in callback.report}
    return seen.weights, measured, str([(row.name, row.aliases, row.shape, row.source) for row in callback.report])


UNITS: dict[str, Any] = {"auto_wrap_policy": {nn.Conv1d, Tail}}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one unit": ({}, {}),
    "flat parameters": ({"use_orig_params": False}, {}),
    "units": (UNITS, {}),
    "replicated": ({"sharding_strategy": "NO_SHARD", **UNITS}, {}),
    "mixed": ({"mixed_precision": MixedPrecision(param_dtype=torch.bfloat16), **UNITS}, {}),
    "on meta": (UNITS, {"on_meta": True}),
    "on meta, one unit": ({"sharding_strategy": "SHARD_GRAD_OP"}, {"on_meta": True}),
    "on meta, flat parameters": ({"use_orig_params": False, **UNITS}, {"on_meta": True}),
}


def of_all_cases() -> dict[str, Fitted]:
    return {name: fitted(CpuFSDP(**strategy), **module) for name, (strategy, module) in CASES.items()}


def test_the_weights_and_the_report_of_a_single_process() -> None:
    alone = {on_meta: fitted("auto", on_meta=on_meta) for on_meta in (False, True)}
    for found in run_ranks(2, of_all_cases, process_group=False, deadline=120):
        for case, (weights, measured, report) in found.items():
            same_weights, same_measured, same_report = alone["meta" in case]
            assert weights == same_weights, case
            assert report == same_report, case
            for name, values in measured.items():
                assert values == pytest.approx(same_measured[name], rel=1e-9, nan_ok=True), (case, name)
