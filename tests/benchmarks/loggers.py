"""What the callback with its default logging adds to a fit, for each logger, and to TensorBoard's event file.

Run it from the root of the repository: ``python -m tests.benchmarks.loggers``. Each fit starts anew in a folder of its
own, in one thread of torch; those of a logger run by turns. Seconds are those of the processor, of all threads of the
process (W&B has a process of its own besides), and the best of the rounds: what else the machine does counts little.
The fit without the callback has the same logger and logs a loss as often. MLflow's tables are made before the clock
starts; the console's table goes to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_init import InitWeightsCallback
from lightning_init.text import columns

WIDTH = 32

Sink = Callable[[Path], "Logger | bool"]


class Wide(L.LightningModule):
    """Linears of `WIDTH` x `WIDTH`, side by side, whose loss is logged every ten steps."""

    init_cfg = {"type": "Kaiming", "layer": "Linear"}  # noqa: RUF012 - as users write it

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(parameters))

    def training_step(self, batch: Tensor) -> Tensor:
        # Not through one another, where a bad start makes denormal numbers, and these make a step slow.
        loss = torch.stack([layer(batch).square().mean() for layer in self.layers]).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def sinks(folder: Path) -> dict[str, Sink]:
    """How to make each logger in a folder."""
    import mlflow  # noqa: PLC0415 - it takes a second to import

    store = folder / "empty.db"
    mlflow.MlflowClient(f"sqlite:///{store}").search_experiments()

    def of_mlflow(here: Path) -> Logger:
        copied = shutil.copy(store, here / "mlflow.db")
        return MLFlowLogger(tracking_uri=f"sqlite:///{copied}", artifact_location=str(here / "artifacts"))

    return {
        "none": lambda _: False,
        "TensorBoard": TensorBoardLogger,
        "CSV": CSVLogger,
        "W&B, offline": lambda here: WandbLogger(save_dir=here, offline=True),
        "MLflow, sqlite": of_mlflow,
    }


def fit(here: Path, sink: Sink, parameters: int, steps: int, *given: Any) -> float:
    """The processor's seconds for a fit."""
    rows: Any = torch.ones(16 * steps, WIDTH)
    module, logger = Wide(parameters), sink(here)
    with (here / "console").open("w", encoding="utf-8") as console, contextlib.redirect_stdout(console):
        before = time.process_time()
        L.Trainer(
            accelerator="cpu",
            callbacks=list(given),
            default_root_dir=here,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            log_every_n_steps=10,
            logger=logger,
            max_epochs=1,
        ).fit(module, DataLoader(rows, batch_size=16))
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        return time.process_time() - before


def event_file(here: Path) -> str:
    """The size of TensorBoard's file in KiB, if there is one."""
    return "".join(f"{path.stat().st_size / 1024:.0f}" for path in here.rglob("events.out.tfevents.*"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What logging costs a fit.")
    parser.add_argument("--parameters", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    header = (
        "parameters",
        "logger",
        "without s",
        "with s",
        "ratio",
        "added s",
        "of which logging s",
        "events KiB",
        "without",
    )
    table: list[tuple[str, ...]] = [header]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ[name] = made
        for parameters in options.parameters:
            for name, sink in sinks(folder).items():
                ways: dict[str, tuple[Any, ...]] = {"without": (), "silent": ((),), "with": (("table", "scalars"),)}
                seconds: dict[str, list[float]] = {way: [] for way in ways}
                sizes = {}
                for _ in range(options.rounds + 1):
                    for way, log in ways.items():
                        here = Path(tempfile.mkdtemp(dir=folder))
                        callbacks = [InitWeightsCallback(seed=0, log=contents) for contents in log]
                        seconds[way].append(fit(here, sink, parameters, options.steps, *callbacks))
                        sizes[way] = event_file(here)
                # The first of each warms up.
                without, silent, whole = (min(found[1:]) for found in seconds.values())
                numbers = (f"{without:.2f}", f"{whole:.2f}", f"{whole / without:.2f}", f"{whole - without:.2f}")
                told = f"{whole - silent:.2f}"
                table.append((str(parameters), name, *numbers, told, sizes["with"], sizes["without"]))
                print(columns(table[-1:]), flush=True)
    print(columns(table))


if __name__ == "__main__":
    main()
