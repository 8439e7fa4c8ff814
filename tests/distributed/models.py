"""What the ranks of these tests train: LightningModules, rules, data, and Trainers that leave nothing behind."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import BaseModule, InitWeightsCallback, PretrainedInit
from lightning_init.digests import digest

__all__ = ["LitNet", "RecordingDDP", "TimedInit", "Told", "digests", "fit", "loader", "rules", "told", "trainer"]


class Noisy(nn.Module):
    """A module with random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(7))

    def init_weights(self) -> None:
        nn.init.normal_(self.noise)

    def forward(self, batch: Tensor) -> Tensor:
        return batch + self.noise.mean()


class Tail(BaseModule):
    """A `BaseModule` whose method runs the rules and then draws."""

    def __init__(self) -> None:
        super().__init__(init_cfg={"type": "Xavier", "layer": "Linear", "distribution": "uniform"})
        self.fc = nn.Linear(6, 2)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.uniform_(self.fc.bias)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.fc(batch)
        return out


def rules() -> list[dict[str, Any]]:
    """A draw for every layer of `LitNet` but ``plain``."""
    return [
        {"type": "Kaiming", "layer": "Conv1d"},
        {"type": "Normal", "name": "head", "std": 0.01, "bias_prob": 0.01},
        {"type": "TruncNormal", "params": "token"},
    ]


class LitNet(pl.LightningModule):
    """Rules, methods and one layer (``plain``) that keeps its constructor's values; it trains at a rate of zero."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.token = nn.Parameter(torch.zeros(6))
        self.head = nn.Linear(24, 6)
        self.noisy = Noisy()
        self.tail = Tail()
        self.plain = nn.Linear(2, 2)
        self.init_cfg = rules() if init_cfg is None else init_cfg

    def forward(self, batch: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.conv(batch.unsqueeze(1)).flatten(1)) + self.token
        out: Tensor = self.plain(self.tail(self.noisy(hidden)))
        return out

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = self(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """Two batches for two ranks."""
    return DataLoader(TensorDataset(torch.ones(8, 8)), batch_size=2)


class RecordingDDP(DDPStrategy):
    """DDP that keeps the digests of the weights as they are just before it wraps the module and sends rank zero's."""

    before: dict[str, str]

    def setup(self, trainer: pl.Trainer) -> None:
        assert self.lightning_module is not None
        self.before = digests(self.lightning_module)
        super().setup(trainer)


def trainer(**arguments: Any) -> pl.Trainer:
    """A Trainer on the CPU for one step, silent unless told otherwise."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        # That a GPU stands unused.
        warnings.simplefilter("ignore")
        return pl.Trainer(**{"accelerator": "cpu", "max_steps": 1, "enable_model_summary": False, **quiet, **arguments})


def fit(
    module: pl.LightningModule, callback: InitWeightsCallback, strategy: Any = "auto", devices: int = 1, **rest: Any
) -> pl.Trainer:
    """Fits for one step with this callback.

    Returns:
        The Trainer, behind it.
    """
    made = trainer(strategy=strategy, devices=devices, callbacks=[callback], **rest)
    made.fit(module, loader())
    return made


def digests(module: nn.Module) -> dict[str, str]:
    """The bits of every parameter."""
    return {name: digest([parameter]) for name, parameter in module.named_parameters()}


@dataclass(frozen=True)
class Told:
    """What one attempt came to on one rank.

    Attributes:
        value: What it returned.
        error: The class of what it raised; empty if it returned.
        message: What that said.
        seconds: How long it took.
    """

    value: Any = None
    error: str = ""
    message: str = ""
    seconds: float = 0.0


def told(attempt: Callable[[], object]) -> Told:
    """Runs something and lives on, whatever it raises."""
    start = time.monotonic()
    try:
        value = attempt()
    except Exception as error:  # noqa: BLE001  # what it is, the test asks
        return Told(None, type(error).__name__, str(error), time.monotonic() - start)
    return Told(value, seconds=time.monotonic() - start)


@dataclass(frozen=True)
class TimedInit(PretrainedInit):
    """``Pretrained`` that notes when it opens and reads; rank zero takes its time over both."""

    events: ClassVar[list[tuple[str, float, float]]] = []
    delay: ClassVar[float] = 0.0

    def open(self) -> Any:
        return self._timed("open", super().open)

    def write(self, *arguments: Any) -> None:
        self._timed("read", lambda: PretrainedInit.write(self, *arguments))

    def _timed(self, what: str, run: Callable[[], Any]) -> Any:
        start = time.monotonic()
        time.sleep(self.delay)
        value = run()
        self.events.append((what, start, time.monotonic()))
        return value
