"""What the tests of loggers share: runs with real loggers, modules that are hard to show, and NumPy's figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_init import InitReport, InitWeightsCallback, init_weights
from lightning_init.loggers import CONTENTS
from tests.trainers import Net, Snapshots, trainer

__all__ = ["NAMES", "RULES", "Logging", "Odd", "fit", "numpy_statistics", "report_of", "wide"]

RULES: list[dict[str, Any]] = [
    {"type": "Kaiming", "layer": "Linear", "bias": 0.25},
    {"type": "Normal", "name": "head", "mean": 1.0, "std": 0.125, "bias_prob": 0.01},
]

NAMES = (
    "a/b",
    "a_b",
    "up//up",
    "/abs",
    "[0]",
    "{x:y}",
    "ünïcödé",
    "重み",
    "a b",
    "back`tick",
    "<b>|*_x_*",
    "long" * 100,
)
"""Names of modules that Python and torch allow, and some logger does not."""


class Logging(Net):
    """It logs a loss, as training does."""

    def training_step(self, batch: Tensor) -> Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss)
        return loss


class Odd(Logging):
    """Values and types that are hard to show, beside those of every other module."""

    def __init__(self) -> None:
        super().__init__(RULES)
        self.bad = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 2.0]))
        self.lone = nn.Parameter(torch.tensor([0.0]))
        self.empty = nn.Parameter(torch.empty(0))
        self.brain = nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.bfloat16))
        self.tiny = nn.Parameter(torch.tensor([0.5, 1.0]).to(torch.float8_e4m3fn), requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 deprecates them
            quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        self.packed = nn.Parameter(quantized, requires_grad=False)

    def on_fit_start(self) -> None:
        # Behind the initialisation, which refuses them.
        with torch.no_grad():
            self.bad[1:3] = torch.tensor([math.nan, math.inf])
            self.lone[:] = math.nan


def fit(
    folder: Path, *loggers: Logger, log: str | Sequence[str] = CONTENTS, module: Any = None, **arguments: Any
) -> tuple[dict[str, Tensor], InitReport]:
    """A run with loggers.

    Returns:
        The weights at its start, and the report.
    """
    seen, callback = Snapshots(), InitWeightsCallback(seed=5, log=log)
    run = trainer(folder, callback, seen, logger=list(loggers), **{"max_steps": 3, "log_every_n_steps": 1, **arguments})
    run.fit(module or Logging(RULES))
    assert callback.report is not None
    return seen.at_start[0], callback.report


def report_of(*names: str) -> tuple[dict[str, Tensor], InitReport]:
    """The measured report of a module of Linears with these names, and its weights."""
    net = nn.Module()
    for name in names:
        net.add_module(name, nn.Linear(2, 1, bias=False))
    report = init_weights(net, {"type": "Normal", "layer": "Linear"}, seed=1).measure(net, histograms=True)
    return dict(net.state_dict()), report


def wide(parameters: int) -> nn.Module:
    """A module of that many small parameters."""
    return nn.ModuleList(nn.Linear(2, 1, bias=False) for _ in range(parameters))


def numpy_statistics(tensor: Tensor) -> dict[str, float]:
    """The statistics as NumPy gives them on the float64 values; those that it has no number for are left out."""
    values = tensor.detach().double().numpy().ravel()
    with np.errstate(invalid="ignore"):
        found = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if values.size > 1 else None,
            "min": float(values.min()),
            "max": float(values.max()),
            "abs_mean": float(np.abs(values).mean()),
            "l2_norm": float(np.sqrt((values**2).sum())),
            "zero_fraction": float((values == 0).mean()),
            "nonfinite": float((~np.isfinite(values)).sum()),
        }
    return {name: value for name, value in found.items() if value is not None}
