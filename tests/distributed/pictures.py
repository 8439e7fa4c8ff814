"""A LightningModule over images, checkpoints for it, and ranks that say who they are when they fetch one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import aiohttp
import lightning.pytorch as pl
import safetensors.torch
import torch
from fsspec.config import conf
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_init import InitWeightsCallback, PretrainedInit, init_weights
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.sources import download
from lightning_init.distributed import rank
from tests.checkpoint.files import bits
from tests.checkpoint.servers import Web
from tests.distributed.models import fit

__all__ = [
    "FITTING",
    "Picture",
    "SlowInit",
    "StateDDP",
    "Way",
    "asking",
    "at_home",
    "content",
    "initialise",
    "set_up",
    "shards",
    "state",
]

Way = Literal["init_weights", "fit", "broadcast"]
"""How an initialisation is started; the last two are fits."""

FITTING: Mapping[str, Any] = {
    "prefix": "net",
    "revise_keys": [("^conv", "stem")],
    "into": "backbone",
    "on_mismatch": "adapt",
}
"""The arguments with which `content` fits a `Picture`."""


class Backbone(nn.Module):
    """One layer for images and one for classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.top = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.top(self.norm(self.stem(images)).mean((2, 3)))
        return out


class Picture(pl.LightningModule):
    """A backbone that trains at a rate of zero."""

    def __init__(self, *rules: Mapping[str, Any], channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.backbone = Backbone(channels, classes)
        self.init_cfg = [{"type": "Normal", "layer": "Linear", "std": 0.1, "bias": 0.5}, *rules]

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images = batch[0].view(-1, 1, 2, 4).expand(-1, self.channels, -1, -1)
        loss: Tensor = self.backbone(images).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def content() -> dict[str, Tensor]:
    """Another number of channels and of classes than a `Picture` has, another name of the layer, other types."""
    generator = torch.Generator().manual_seed(13)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "net.conv.weight": draw(4, 3, 2, 2).half(),
        "net.conv.bias": draw(4).bfloat16(),
        "net.norm.weight": draw(4),
        "net.norm.bias": draw(4),
        "net.norm.running_mean": draw(4),
        "net.norm.running_var": draw(4).square(),
        "net.norm.num_batches_tracked": torch.tensor(41),
        "net.top.weight": draw(5, 4),
        "net.top.bias": draw(5),
        "other.large": draw(1 << 14),
    }


def shards() -> dict[str, bytes]:
    """`content` as two files and their index."""
    tensors = content()
    holders = {key: f"model-{1 + i % 2}.safetensors" for i, key in enumerate(tensors)}
    files = {
        name: safetensors.torch.save({key: tensors[key] for key in tensors if holders[key] == name})
        for name in set(holders.values())
    }
    return {**files, "model.safetensors.index.json": json.dumps({"weight_map": holders}).encode()}


def state(module: nn.Module) -> dict[str, bytes]:
    """The bits of every parameter and buffer."""
    return {name: bits(tensor) for name, tensor in module.state_dict().items()}


@dataclass(frozen=True)
class SlowInit(PretrainedInit):
    """``Pretrained`` that takes its time before it looks for the checkpoint."""

    delay: ClassVar[float] = 0.0

    def open(self) -> Checkpoint:
        time.sleep(self.delay)
        return super().open()


class StateDDP(DDPStrategy):
    """DDP that keeps the state as it is just before it wraps the module and sends rank zero's."""

    before: dict[str, bytes]

    def setup(self, trainer: pl.Trainer) -> None:
        assert self.lightning_module is not None
        self.before = state(self.lightning_module)
        super().setup(trainer)


def initialise(module: Picture, way: Way, *, nodes: int = 1, strategy: StateDDP | None = None) -> dict[str, bytes]:
    """Initialises a module on every rank.

    Returns:
        Its state; in a fit, before DDP makes that of all ranks equal.
    """
    if way == "init_weights":
        init_weights(module, seed=5)
        return state(module)
    sync: Literal["broadcast", "rank_zero_first"] = "broadcast" if way == "broadcast" else "rank_zero_first"
    strategy = strategy or StateDDP(process_group_backend="gloo")
    devices = torch.distributed.get_world_size() // nodes
    fit(module, InitWeightsCallback(seed=5, log=(), sync=sync), strategy, devices, num_nodes=nodes)
    return strategy.before


def set_up(*, patience: float = 60.0) -> None:
    """Lets this rank say its number with every request, wait so many seconds for an answer, and ask again once."""
    limit = aiohttp.ClientTimeout(sock_read=patience)
    conf["http"] = {"client_kwargs": {"headers": {"X-Rank": str(rank())}, "timeout": limit}}
    download.PAUSES = (0.01,)  # type: ignore[assignment]  # as many as one likes


def asking(web: Web, path: str) -> list[int]:
    """Which ranks asked for a path, in their order."""
    return [int(request.headers["X-Rank"]) for request in web.requests if request.path == path]


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """Keeps what is fetched below a folder, which need not exist."""
    before = os.environ.get("TORCH_HOME")
    os.environ["TORCH_HOME"] = str(home)
    try:
        yield
    finally:
        del os.environ["TORCH_HOME"]
        if before is not None:
            os.environ["TORCH_HOME"] = before
