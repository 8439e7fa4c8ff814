"""What the tests of the callback share: a small LightningModule, and Trainers that say little and write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.models import constant

__all__ = ["Net", "Snapshots", "loader", "trainer", "weights"]


def loader(batches: int = 2) -> DataLoader[Any]:
    """Batches of two rows of two features, the same in every test."""
    rows: Any = [torch.tensor([float(i), 1.0]) for i in range(2 * batches)]
    return DataLoader(rows, batch_size=2)


class Net(pl.LightningModule):
    """Two Linears; whatever is trained moves only if a learning rate is given.

    Args:
        init_cfg: Its config; by default every weight and bias becomes 0.5.
        lr: The learning rate.
    """

    def __init__(self, init_cfg: Any = None, *, lr: float = 0.0) -> None:
        super().__init__()
        self.lr = lr
        self.init_cfg = constant(0.5) if init_cfg is None else init_cfg
        self.body = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(batch))
        return output

    def training_step(self, batch: Tensor) -> Tensor:
        return self.forward(batch).square().mean()

    def validation_step(self, batch: Tensor) -> None:
        self(batch)

    def test_step(self, batch: Tensor) -> None:
        self(batch)

    def predict_step(self, batch: Tensor) -> Tensor:
        output: Tensor = self(batch)
        return output

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def test_dataloader(self) -> DataLoader[Any]:
        return loader()

    def predict_dataloader(self) -> DataLoader[Any]:
        return loader()


class Snapshots(callbacks.Callback):
    """Keeps the weights as they are when training starts, and how many steps began."""

    def __init__(self) -> None:
        self.at_start: list[dict[str, Tensor]] = []
        self.steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at_start.append(weights(pl_module))

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1


def trainer(folder: Path, *given: callbacks.Callback, **arguments: Any) -> pl.Trainer:
    """A Trainer of one step on the CPU, without loggers, checkpoints and bars."""
    silent: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    chosen: Sequence[callbacks.Callback] = given
    return pl.Trainer(callbacks=list(chosen), **{**silent, **arguments})


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and persistent buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
