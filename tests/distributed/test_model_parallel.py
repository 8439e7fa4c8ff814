"""The callback under ``ModelParallelStrategy``: FSDP2 and tensor parallel in a Trainer, on CPUs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_init import InitWeightsCallback, skip_default_init
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, loader, rules, told, trainer
from tests.distributed.sharded import whole

SEED = 7


class ShardedNet(LitNet):
    """`LitNet`, spread over the ranks by the mesh of the strategy."""

    def __init__(self, init_cfg: Any = None, *, on_meta: bool = False, left_out: bool = False, lr: float = 0.0) -> None:
        with torch.device("meta" if on_meta else "cpu"), skip_default_init() if left_out else nullcontext():
            super().__init__(init_cfg)
        self.lr = lr

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is None:
            return
        if mesh["tensor_parallel"].size() > 1:
            parallelize_module(
                self,
                mesh["tensor_parallel"],
                {
                    "head": ColwiseParallel(output_layouts=Replicate()),
                    "tail.fc": RowwiseParallel(input_layouts=Replicate()),
                },
            )
        if mesh["data_parallel"].size() > 1:
            for part in (self.conv, self.head, self.noisy, self.tail, self.plain, self):
                fully_shard(part, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Seen(Callback):
    """The weights at the start of training, and the report."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = whole(pl_module)


def fitted(
    module: ShardedNet, mesh: tuple[int, int] | None, ckpt_path: Path | None = None, callbacks: Any = (), **rest: Any
) -> tuple[dict[str, str], InitWeightsCallback, Any]:
    seen, callback = Seen(), InitWeightsCallback(seed=SEED, log=())
    strategy: Any = "auto"
    if mesh is not None:
        data, tensor = mesh
        strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)
    devices = 1 if mesh is None else mesh[0] * mesh[1]
    made = trainer(strategy=strategy, devices=devices, callbacks=[seen, callback, *callbacks], **rest)
    made.fit(module, loader(), ckpt_path=ckpt_path)
    return seen.weights, callback, made


def statistics(callback: InitWeightsCallback) -> dict[str, list[float]]:
    assert callback.report is not None
    return {row.name: list((row.statistics or {}).values()) for row in callback.report}


Fitted = tuple[dict[str, str], dict[str, list[float]], str]


def first_fit(mesh: tuple[int, int] | None, **made: bool) -> Fitted:
    torch.manual_seed(3)
    weights, callback, _ = fitted(ShardedNet(rules(), **made), mesh)
    return weights, statistics(callback), str([(row.name, row.source) for row in callback.report or ()])


def all_three(mesh: tuple[int, int]) -> list[Fitted]:
    return [first_fit(mesh), first_fit(mesh, on_meta=True), first_fit(mesh, left_out=True)]


@pytest.mark.parametrize("mesh", [(2, 1), (1, 2), (2, 2)])
def test_the_weights_and_the_report_of_a_single_process(mesh: tuple[int, int]) -> None:
    # What a constructor left out is reset as what was on meta is.
    alone = [first_fit(None), *[first_fit(None, on_meta=True)] * 2]
    for found in run_ranks(mesh[0] * mesh[1], all_three, mesh, process_group=False, deadline=120):
        for (weights, measured, report), (same_weights, same_measured, same_report) in zip(found, alone, strict=True):
            assert weights == same_weights
            assert report == same_report
            assert measured.keys() == same_measured.keys()
            for name, values in measured.items():
                assert values == pytest.approx(same_measured[name], rel=1e-9, nan_ok=True), name


def a_resumed_run(folder: Path) -> tuple[Any, ...]:
    module = ShardedNet(lr=0.1)
    _, _, made = fitted(module, (2, 1))
    trained = whole(module)
    made.save_checkpoint(folder / "last.ckpt")
    gone = ShardedNet([*rules(), {"type": "Pretrained", "checkpoint": str(folder / "gone.pth")}])
    weights, callback, _ = fitted(gone, (2, 1), folder / "last.ckpt", max_steps=2)
    new = told(lambda: fitted(ShardedNet({"type": "Pretrained", "checkpoint": str(folder / "gone.pth")}), (2, 1)))
    return trained == weights, callback.report, gone.is_init, new.error, new.message


def test_a_resumed_run_keeps_its_weights_even_if_a_checkpoint_is_gone(tmp_path: Path) -> None:
    for kept, report, is_init, error, message in run_ranks(2, a_resumed_run, tmp_path, process_group=False):
        assert kept
        assert report is None
        assert is_init is True
        assert error == "CheckpointError"
        assert "gone.pth" in message


class Search(Callback):
    """Saves and restores around a search, as those of Lightning do; its `lr_find` fails on sharded optimizers."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        path = Path(trainer.default_root_dir) / "search.ckpt"
        trainer.save_checkpoint(path)
        trainer._checkpoint_connector.restore(path)


def a_search(folder: Path) -> tuple[dict[str, str], bool, Any]:
    rest: dict[str, Any] = {"callbacks": [Search()], "default_root_dir": folder}
    weights, callback, _ = fitted(ShardedNet(lr=0.1), (2, 1), **rest)
    gone = ShardedNet({"type": "Pretrained", "checkpoint": str(folder / "gone.pth")}, lr=0.1)
    return weights, callback.report is not None, told(lambda: fitted(gone, (2, 1), **rest)[0])


def test_a_search_that_restores_is_no_resumed_run(tmp_path: Path) -> None:
    for weights, is_reported, outcome in run_ranks(2, a_search, tmp_path, process_group=False):
        assert "head.weight" in weights
        assert is_reported
        assert outcome.error == "CheckpointError"
