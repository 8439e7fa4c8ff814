"""The probe on several ranks: under DDP, FSDP1, FSDP2 and tensor parallel, and where a rank has nothing to give."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitWeightsCallback, distributed
from lightning_init.report import LayerSignal
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, digests, rules, trainer
from tests.distributed.sharded import whole
from tests.distributed.test_model_parallel import ShardedNet
from tests.distributed.writers import CpuFSDP

Probed = tuple[dict[str, str], tuple[LayerSignal, ...], list[str]]


class TrainedNet(LitNet):
    """It moves, its ranks talk to each other, and it may be told to fail on one of them, once."""

    # Not on the instance, which is put back after the probe.
    fail_on: ClassVar[list[int]] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        mean: Any = self.all_gather(batch[0].mean())
        if self.fail_on and self.fail_on.pop() == distributed.rank():
            raise ValueError("no such row")
        loss: Tensor = (self(batch[0]) + mean.mean()).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TrainedShards(ShardedNet):
    """It has been run before it is probed: by the check of the validation, behind which FSDP2 holds whole weights."""

    def __init__(self) -> None:
        super().__init__(rules(), lr=0.01)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self(batch[0])

    def val_dataloader(self) -> DataLoader[Any]:
        return rows()


def rows() -> DataLoader[Any]:
    made = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(made), batch_size=2)


def a_batch() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


class Uncopyable(list[Tensor]):
    """A batch that cannot be copied on rank one."""

    def __deepcopy__(self, memo: Any) -> Any:
        if distributed.rank() == 1:
            raise OSError("the disk is gone")
        return self


def probed(make: Any, probe: Any, strategy: Any, devices: int = 2) -> Probed:
    torch.manual_seed(3)
    module = make()
    callback = InitWeightsCallback(seed=7, log=(), probe=probe)
    trainer(strategy=strategy, devices=devices, callbacks=[callback], max_steps=3).fit(module, rows())
    assert callback.report is not None
    weights = whole(module) if isinstance(module, ShardedNet) else digests(module)
    failures = [finding.message for finding in callback.report.findings if finding.code == "probe-failed"]
    return weights, callback.report.signal, failures


class Wrapped(TrainedNet):
    """It trains what FSDP1 has flattened."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.model is not None
        return torch.optim.SGD(self.trainer.model.parameters(), lr=0.01)


def under_fsdp() -> tuple[list[str], int]:
    callback = InitWeightsCallback(seed=7, log=(), probe="train_dataloader")
    made = trainer(strategy=CpuFSDP(), devices=2, callbacks=[callback], max_steps=3)
    made.fit(Wrapped(), rows())
    assert callback.report is not None
    assert callback.report.signal == ()
    return [it.message for it in callback.report.findings if it.code == "probe-failed"], made.global_step


def replicated_and_flat() -> tuple[list[Probed], tuple[list[str], int]]:
    found = [probed(TrainedNet, probe, "ddp") for probe in (None, "train_dataloader")]
    TrainedNet.fail_on.append(1)
    found += [
        probed(TrainedNet, "train_dataloader", "ddp"),
        probed(TrainedNet, Uncopyable([torch.ones(2, 8)]), "ddp"),
    ]
    return found, under_fsdp()


def test_under_ddp_and_fsdp() -> None:
    mine, other = run_ranks(2, replicated_and_flat, process_group=False, deadline=120)
    # Every rank tells the same.
    assert mine == other
    (plain, well, failing, missing), refused = mine
    assert plain[1:] == ((), [])
    assert len(well[1]) >= 4
    assert well[2] == []
    assert all(layer.gradient_std > 0 for layer in well[1])
    assert failing[1] == missing[1] == ()
    assert "ValueError: no such row [on rank 1]" in failing[2][0]
    assert "OSError: the disk is gone [on rank 1]" in missing[2][0]
    # The training went on in each case, and came to the same.
    assert plain[0] == well[0] == failing[0] == missing[0]
    assert refused == (["the signal could not be probed: InitError: the probe does not run under CpuFSDP"], 3)


def sharded(mesh: tuple[int, int]) -> list[Probed]:
    def strategy() -> ModelParallelStrategy:
        return ModelParallelStrategy(data_parallel_size=mesh[0], tensor_parallel_size=mesh[1])

    return [probed(TrainedShards, probe, strategy()) for probe in (None, [a_batch()])]


@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_under_model_parallel(mesh: tuple[int, int]) -> None:
    (plain, well), other = run_ranks(2, sharded, mesh, process_group=False, deadline=120)
    assert well[2] == []
    assert plain[0] == well[0]
    assert len(well[1]) >= 4
    assert well[1][0].name == "conv"
    assert well == other[1]
    # All ranks had the same batch, so the parts of the model came to what a single process makes of it.
    for layer, wanted in zip(well[1], probed(TrainedShards, [a_batch()], "auto", 1)[1], strict=True):
        mine = (layer.mean, layer.std, layer.gradient_std)
        assert mine == pytest.approx((wanted.mean, wanted.std, wanted.gradient_std), rel=1e-4), layer.name
