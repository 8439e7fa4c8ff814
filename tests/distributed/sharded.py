"""Models that are spread over ranks in every way that torch offers, and what a job of theirs tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_init import INITIALIZERS
from lightning_init.digests import digest
from lightning_init.initializers.base import TensorInitializer

__all__ = ["RULES", "SHARDINGS", "Net", "Noisy", "built", "possible", "whole"]


@INITIALIZERS.register("DescendingForTests")
@dataclass(frozen=True)
class DescendingInit(TensorInitializer):
    """Needs the whole tensor: what it draws, in descending order."""

    def fill(self, tensor: Tensor, fans: Any, generator: torch.Generator | None) -> None:
        tensor.copy_(torch.rand(tensor.numel(), generator=generator).sort(descending=True).values.view(tensor.shape))


RULES: list[dict[str, Any]] = [
    {"type": "Kaiming", "layer": "Linear", "bias": 0.5},
    {"type": "Xavier", "name": "wide", "distribution": "uniform"},
    {"type": "Normal", "layer": "Embedding", "std": 2},
    {"type": "Caffe2Xavier", "layer": "Conv2d", "bias": 1},
    {"type": "TruncNormal", "params": "token"},
    {"type": "DescendingForTests", "name": "last"},
    {"type": "Orthogonal", "name": "first"},
]
"""Laws, fans, whole tensors, a padding row."""


class Noisy(nn.Module):
    """A module whose own method reads what is there, draws, and replaces a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(7, 3))
        self.scale = nn.Parameter(torch.ones(5))
        self.fc = nn.Linear(3, 5)

    def init_weights(self) -> None:
        nn.init.normal_(self.noise)
        self.scale = nn.Parameter(self.fc.weight.detach().sum(1))
        nn.init.orthogonal_(self.fc.weight)


class Net(nn.Module):
    """Uneven sizes, a tensor of several blocks that end within rows, half precision, a padding row, a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 7)
        self.wide = nn.Linear(601, 1001, dtype=torch.bfloat16)
        self.words = nn.Embedding(7, 5, padding_idx=3)
        self.conv = nn.Conv2d(3, 5, 3)
        self.last = nn.Linear(5, 7, bias=False)
        self.token = nn.Parameter(torch.zeros(9))
        self.again = self.first
        self.noisy = Noisy()

    def forward(self, batch: Tensor) -> Tensor:
        return batch


def _fsdp(net: Net) -> None:
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for part in net.children():
        fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)


def _columns(net: nn.Module) -> None:
    _place(net, lambda parameter: Shard(parameter.dim() - 1))


def _replicated(net: nn.Module) -> None:
    _place(net, lambda parameter: Replicate())


def _place(net: nn.Module, placement: Callable[[Tensor], Shard | Replicate]) -> None:
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            spread = distribute_tensor(parameter.detach(), mesh, [placement(parameter)])
            setattr(module, name, nn.Parameter(spread))


def _tensor_parallel(net: nn.Module) -> None:
    _parallelize(net, init_device_mesh("cpu", (distributed.get_world_size(),)))


def _parallelize(net: nn.Module, mesh: DeviceMesh) -> None:
    parallelize_module(net, mesh, {"first": ColwiseParallel(), "wide": RowwiseParallel(), "words": RowwiseParallel()})


def _two_dimensions(net: nn.Module) -> None:
    """FSDP over TP: interleaved rows of ``first``."""
    mesh = init_device_mesh("cpu", (2, distributed.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    _parallelize(net, mesh["tensor"])
    fully_shard(net, mesh=mesh["data"])


def _hybrid(net: nn.Module) -> None:
    """FSDP within a row of the mesh, replicas between rows."""
    mesh = init_device_mesh("cpu", (2, distributed.get_world_size() // 2), mesh_dim_names=("copies", "shards"))
    fully_shard(net, mesh=mesh)


SHARDINGS: dict[str, Callable[[Any], None]] = {
    "fsdp": _fsdp,
    "columns": _columns,
    "tensor parallel": _tensor_parallel,
    "two dimensions": _two_dimensions,
    "hybrid": _hybrid,
    "replicated": _replicated,
}


def possible(ranks: int) -> list[str]:
    """The names of the shardings that a number of ranks can have."""
    return [name for name in SHARDINGS if ranks >= 4 or name not in ("two dimensions", "hybrid")]


def built(sharding: str | None, *, on_meta: bool = False) -> Net:
    """A net with unlike values on every rank; spread over the ranks, or in one piece for None."""
    torch.manual_seed(distributed.get_rank() if distributed.is_initialized() else 0)
    with torch.device("meta" if on_meta else "cpu"):
        net = Net()
    if sharding is not None:
        SHARDINGS[sharding](net)
    return net.to_empty(device="cpu") if on_meta else net


def whole(module: nn.Module) -> dict[str, str]:
    """The bits of all parameters, put together."""
    return {name: digest([_full(parameter.detach())]) for name, parameter in module.named_parameters()}


def _full(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found
