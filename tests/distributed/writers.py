"""Ranks that save sharded checkpoints as their users do: by torch, and by Lightning's strategies, on CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.fsdp.wrap import enable_wrap

from lightning_init.checkpoint.base import Entry, Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from tests.checkpoint.files import bits
from tests.distributed.models import loader, trainer

__all__ = ["CpuFSDP", "Saved", "opened", "save_with_fsdp", "save_with_fully_shard", "save_with_model_parallel"]

Saved = dict[str, tuple[Entry, bytes]]
"""Every tensor of a state dict, to compare with."""


class Net(pl.LightningModule):
    """Seven, five and one rows, which two ranks cannot share evenly, and a buffer; it trains."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(8, 7)
        self.second = nn.Linear(7, 5)
        self.last = nn.Linear(5, 1)
        self.register_buffer("steps", torch.arange(3))

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.first(batch)))
        return out

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = self(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class ShardedNet(Net):
    """Sharded by FSDP2 where ``ModelParallelStrategy`` wants it."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for part in (self.first, self.second, self.last, self):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])


class CpuFSDP(FSDPStrategy):
    """``FSDPStrategy`` on CPUs, which torch's FSDP runs on if it is told."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        if any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
            return super()._setup_model(model)
        return FullyShardedDataParallel(model, **self._arguments())

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        with enable_wrap(wrapper_cls=FullyShardedDataParallel, **self._arguments()):
            yield

    def _arguments(self) -> dict[str, Any]:
        return {
            "cpu_offload": self.cpu_offload,
            "mixed_precision": self.mixed_precision_config,
            "sharding_strategy": self.sharding_strategy,
            "device_id": torch.device("cpu"),
            **self.kwargs,
        }

    def lightning_module_state_dict(self) -> dict[str, Any]:
        if self._state_dict_type == "sharded":
            return super().lightning_module_state_dict()
        # Lightning asks torch to move the whole weights to the CPU. Where they are there already, torch hands out
        # memory that it has freed, and the process dies.
        assert self.model is not None
        whole = FullStateDictConfig(offload_to_cpu=False, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, whole):
            return self.model.state_dict()


def saved(state: dict[str, Any]) -> Saved:
    return {key: (Entry(tuple(value.shape), value.dtype), bits(value)) for key, value in state.items()}


def opened(path: Path, reading: Reading | None = None) -> Saved:
    """What this process alone reads of it."""
    with open_checkpoint(path, reading) as checkpoint:
        return {key: (entry, bits(checkpoint.read(key))) for key, entry in checkpoint.entries.items()}


def full(module: nn.Module) -> Saved:
    return saved(get_model_state_dict(module, options=StateDictOptions(full_state_dict=True)))


def trained(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module(torch.ones(2, 8)).sum().backward()
    optimizer.step()


def save_with_fully_shard(folder: Path) -> tuple[Saved, Saved | None]:
    """Saves module and optimizer with ``dcp.save``.

    Returns:
        The weights, and on rank one what it reads of the folder while rank zero does not.
    """
    module = Net()
    for part in (module.first, module.second, module.last, module):
        fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
    optimizer = module.configure_optimizers()
    trained(module, optimizer)
    model, state = get_state_dict(module, optimizer)
    dcp.save({"model": model, "optimizer": state, "step": 1}, checkpoint_id=folder)
    weights = full(module)
    return weights, opened(folder) if torch.distributed.get_rank() == 1 else None


def save_with_model_parallel(path: Path, distributed: bool) -> Saved:
    """Fits and saves with Lightning's ``ModelParallelStrategy``.

    Returns:
        The weights.
    """
    module = ShardedNet()
    strategy = ModelParallelStrategy(save_distributed_checkpoint=distributed)
    made = trainer(strategy=strategy, devices=2)
    made.fit(module, loader())
    made.save_checkpoint(path)
    return full(module)


def save_with_fsdp(path: Path, kind: Literal["full", "sharded"]) -> Saved:
    """Fits and saves with Lightning's ``FSDPStrategy``.

    Returns:
        The weights.
    """
    module = Net()
    made = trainer(strategy=CpuFSDP(state_dict_type=kind), devices=2)
    made.fit(module, loader())
    # The optimizer's whole state would end a process on CPUs as well.
    made.save_checkpoint(path, weights_only=kind == "full")
    wrapped = made.strategy.model
    assert isinstance(wrapped, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(wrapped):
        return saved({key: value.clone() for key, value in module.state_dict().items()})
