"""One LightningModule with a part for every kind of initialisation, and the hash of each of its parts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_init.digests import digest
from lightning_init.tree import Tree

__all__ = ["PARTS", "Everything", "hashes", "write_checkpoint"]

PARTS = ("small", "laws", "conv", "norm", "embedding", "method", "pretrained")
"""The parts, in the order of the columns of the table."""

Hashes = dict[str, str]


class Method(nn.Module):
    """A module with an ``init_weights`` of its own, which draws and reads what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.empty(4))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def init_weights(self) -> None:
        nn.init.orthogonal_(self.fc.weight)
        with torch.no_grad():
            self.scale.copy_(self.fc.weight.sum(1))


class Everything(pl.LightningModule):
    """All parts; their training is over before its first step.

    Args:
        folder: Where `write_checkpoint` has written.
        turned: Whether the parts are registered in the opposite order.
    """

    def __init__(self, folder: Path, *, turned: bool = False) -> None:
        super().__init__()
        made: dict[str, nn.Module] = {
            "small": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)),
            # The last one is of several blocks, which end within rows.
            "laws": nn.Sequential(*(nn.Linear(6, 8) for _ in range(6)), nn.Linear(601, 1001)),
            "conv": nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv1d(2, 4, 3)),
            "norm": nn.Sequential(nn.BatchNorm1d(6), nn.LayerNorm(6)),
            "embedding": nn.Embedding(7, 5, padding_idx=3),
            "method": Method(),
            "pretrained": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
        }
        for name in reversed(PARTS) if turned else PARTS:
            self.add_module(name, made[name])
        self.init_cfg = [
            {"type": "Kaiming", "name": "small"},
            {"type": "Constant", "name": "laws.0", "val": 0.3, "bias": 0.1},
            {"type": "Normal", "name": "laws.1", "mean": 1, "std": 0.02},
            {"type": "Uniform", "name": "laws.2", "a": -0.1, "b": 0.1},
            {"type": "TruncNormal", "name": "laws.3", "cutoff": 2},
            {"type": "Xavier", "name": "laws.4", "distribution": "uniform"},
            {"type": "Caffe2Xavier", "name": "laws.5", "bias_prob": 0.01},
            {"type": "Kaiming", "name": "laws.6", "mode": "fan_in", "distribution": "uniform"},
            {"type": "Xavier", "name": "conv"},
            {"type": "Uniform", "name": "norm", "params": ["weight", "bias"], "a": 0.9, "b": 1.1},
            {"type": "TruncNormal", "name": "embedding", "std": 0.02},
            {"type": "Constant", "name": "method.fc", "val": 0},
            {"type": "Pretrained", "checkpoint": str(folder / "pretrained.pt"), "into": "pretrained"},
        ]

    def configure_model(self) -> None:
        """Spreads the parts over the mesh of a strategy that has one."""
        mesh = self.device_mesh
        if mesh is None:
            return
        if mesh["tensor_parallel"].size() > 1:
            parallelize_module(
                self,
                mesh["tensor_parallel"],
                {
                    "small.0": ColwiseParallel(output_layouts=Replicate()),
                    "small.2": RowwiseParallel(input_layouts=Replicate()),
                    "laws.6": ColwiseParallel(output_layouts=Replicate()),
                    "embedding": RowwiseParallel(input_layouts=Replicate()),
                    "pretrained.0": ColwiseParallel(output_layouts=Replicate()),
                },
            )
        if mesh["data_parallel"].size() > 1:
            self.spread(mesh["data_parallel"])

    def spread(self, mesh: Any) -> None:
        """FSDP2 of every part."""
        for part in (*self.children(), self):
            fully_shard(part, mesh=mesh)

    def training_step(self, batch: Any) -> None:
        raise AssertionError("the run ends when training starts")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4)))


def write_checkpoint(folder: Path) -> None:
    """What the last part is loaded from: values that no law of a test gives."""
    part = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    for i, tensor in enumerate(part.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.linspace(i + 1, i + 2, tensor.numel()).sqrt().view(tensor.shape))
    torch.save(part.state_dict(), folder / "pretrained.pt")


def hashes(module: nn.Module, dtype: torch.dtype | None = None) -> Hashes:
    """A hash of each part: of the names, types, shapes and bits of all its parameters and persistent buffers.

    Args:
        module: An `Everything`; a tensor that is spread over ranks is put together, on all of them.
        dtype: What floating-point tensors are rounded to before.
    """
    found = {part: hashlib.sha256() for part in PARTS}
    for slot in sorted(Tree(module).slots, key=lambda slot: slot.name):
        (tensor,) = slot.tensors
        whole = _whole(tensor.detach())
        if dtype is not None and whole.is_floating_point():
            whole = whole.to(dtype)
        told = f"{slot.name} {whole.dtype} {tuple(whole.shape)} {digest([whole])}\n"
        found[slot.name.partition(".")[0]].update(told.encode())
    return {part: sha.hexdigest()[:12] for part, sha in found.items()}


def _whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found
