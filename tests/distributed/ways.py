"""Every way to start a run, and the hashes of the weights that it starts from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.strategies import DDPStrategy as FabricDDP
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel

from lightning_init import InitWeightsCallback, init_weights
from lightning_init.distributed import rank
from lightning_init.wrappers import unwrap
from tests.distributed.harness import run_ranks
from tests.distributed.models import trainer
from tests.distributed.scripts import run_function, torchrun
from tests.distributed.writers import CpuFSDP
from tests.everything import PARTS, Everything, hashes
from tests.models import threads

__all__ = ["FIRST", "HALF", "ROUNDED", "Rows", "in_one_process", "of_launchers", "of_ranks"]

SEED = 0

FIRST = "a Trainer on one device"
ROUNDED = "the same, rounded to bfloat16"
HALF = 'a Trainer with precision="bf16-true"'

Rows = dict[str, dict[str, str]]
"""The hash of every part, by the way."""


class _Look(Callback):
    """Takes the hashes when training starts, and ends the run."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = trainer.strategy.model
        with (
            FullyShardedDataParallel.summon_full_params(model, writeback=False)
            if isinstance(model, FullyShardedDataParallel)
            else nullcontext()
        ):
            self.found = hashes(pl_module)
        trainer.should_stop = True


class _LookingDDP(DDPStrategy):
    """Takes the hashes just before DDP wraps the module and sends rank zero's weights to all."""

    def setup(self, trainer: L.Trainer) -> None:
        assert self.lightning_module is not None
        self.found = hashes(self.lightning_module)
        super().setup(trainer)


def _fit(module: Any, strategy: Any = "auto", devices: int = 1, **rest: Any) -> dict[str, str]:
    look = _Look()
    callbacks = [InitWeightsCallback(seed=SEED, log=()), look]
    trainer(strategy=strategy, devices=devices, callbacks=callbacks, **rest).fit(module)
    if isinstance(strategy, _LookingDDP):
        assert strategy.found == look.found
    # Launchers that train in other processes return the weights.
    return getattr(look, "found", None) or hashes(module)


def _plain(module: nn.Module) -> dict[str, str]:
    init_weights(module, seed=SEED)
    return hashes(unwrap(module))


def _with_threads(n: int, folder: Path) -> dict[str, str]:
    with threads(n):
        return _plain(Everything(folder))


def _compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def _with_a_compiled_part(folder: Path) -> dict[str, str]:
    module = Everything(folder)
    part = _compiled(module.get_submodule("small"))
    part(torch.ones(1, 6))
    module.add_module("small", part)
    return _fit(module)


def _that_compiles_itself(folder: Path) -> dict[str, str]:
    module = Everything(folder)
    module.compile(backend="eager")
    return _fit(module)


def _on_meta(folder: Path) -> Everything:
    with torch.device("meta"):
        return Everything(folder)


def in_one_process(folder: Path) -> Rows:
    """The ways of a single process."""
    first = Everything(folder)
    rows = {FIRST: _fit(first), ROUNDED: hashes(first, torch.bfloat16)}
    rows[HALF] = _fit(Everything(folder), precision="bf16-true")
    rows["init_weights in plain PyTorch"] = _plain(Everything(folder))
    for n in (1, 2, 5):
        rows[f"{n} thread{'s' if n > 1 else ''}"] = _with_threads(n, folder)
    rows["torch.compile(module)"] = _fit(_compiled(Everything(folder)))
    rows["torch.compile of a submodule"] = _with_a_compiled_part(folder)
    rows["module.compile()"] = _that_compiles_itself(folder)
    rows["built on meta"] = _fit(_on_meta(folder))
    rows["submodules registered in the opposite order"] = _fit(Everything(folder, turned=True))
    rows["memory format channels_last"] = _fit(Everything(folder).to(memory_format=torch.channels_last))
    return rows


def _on_fsdp2(folder: Path) -> dict[str, str]:
    module = Everything(folder)
    module.spread(init_device_mesh("cpu", (dist.get_world_size(),)))
    return _plain(module)


def _in_fabric(folder: Path) -> dict[str, str]:
    fabric = L.Fabric(
        accelerator="cpu", devices=dist.get_world_size(), strategy=FabricDDP(process_group_backend="gloo")
    )
    fabric.launch()
    module = Everything(folder)
    before = _plain(module)
    wrapped = fabric.setup_module(Everything(folder))
    assert _plain(wrapped) == before
    return before


def in_ranks(folder: Path) -> Rows:
    """The ways of a number of ranks; called on each of them."""
    n = int(os.environ["WORLD_SIZE"])
    # Nothing that the constructors draw may matter.
    torch.manual_seed(rank() + 100)
    rows = {f"DDP, {n} ranks": _fit(Everything(folder), _LookingDDP(process_group_backend="gloo"), n)}
    meshes = {f"FSDP2, {n} ranks": (n, 1)}
    meshes |= {"tensor parallel, 2 ranks": (1, 2)} if n == 2 else {"FSDP2 over tensor parallel, 2 x 2 ranks": (2, 2)}
    for way, (data, tensor) in meshes.items():
        for built, make in (("", Everything), (", built on meta", _on_meta)):
            strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)
            rows[way + built] = _fit(make(folder), strategy, n)
    for way, make in ((f"FSDP1, {n} ranks", Everything), (f"FSDP1, {n} ranks, built on meta", _on_meta)):
        rows[way] = _fit(make(folder), CpuFSDP(auto_wrap_policy={nn.Sequential, nn.Embedding}), n)
    if n == 2:
        rows["init_weights after fully_shard, 2 ranks"] = _on_fsdp2(folder)
        rows["init_weights in Fabric, before and after setup, 2 ranks"] = _in_fabric(folder)
    return rows


def of_ranks(n: int, folder: Path) -> Rows:
    """The ways of a number of ranks; a hash that is not the same on all of them shows as several."""
    return _of_all(run_ranks(n, in_ranks, folder, process_group=False, deadline=150))


def _of_all(ranks: Sequence[Rows]) -> Rows:
    return {
        way: {part: " ".join(dict.fromkeys(rows[way][part] for rows in ranks)) for part in PARTS} for way in ranks[0]
    }


# Launchers, each in a script of its own; every rank leaves what it found in the folder.


def _keep(folder: str, rows: Rows) -> None:
    (Path(folder) / f"{rank()}.json").write_text(json.dumps(rows), encoding="utf-8")


def script_of_launchers(folder: str) -> None:
    """Launchers that return to the main process; forks first, while no thread has been started."""
    strategies = ("ddp_fork", "ddp_notebook", "ddp_spawn")
    _keep(folder, {f'strategy="{name}", 2 ranks': _fit(Everything(Path(folder)), name, 2) for name in strategies})


def script_of_ddp(folder: str) -> None:
    """The launcher that runs the script again for every rank."""
    _keep(folder, {'strategy="ddp", 2 ranks (each a script of its own)': _fit(Everything(Path(folder)), "ddp", 2)})


def script_of_torchrun(folder: str) -> None:
    """A rank of torchrun."""
    dist.init_process_group("gloo")
    n = dist.get_world_size()
    way = f"init_weights under torchrun, {'2 ranks' if n == 2 else '2 nodes of 2 ranks'}"
    _keep(folder, {way: _plain(Everything(Path(folder)))})
    dist.destroy_process_group()


def _kept(folder: Path, run: Callable[[], object]) -> Rows:
    run()
    found = sorted(folder.glob("[0-9].json"))
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    for path in found:
        path.unlink()
    return _of_all(rows)


def of_launchers(folder: Path) -> Rows:
    """The ways of Lightning's launchers and of torchrun."""
    rows = _kept(folder, partial(run_function, script_of_launchers, folder, deadline=200))
    rows |= _kept(folder, partial(run_function, script_of_ddp, folder, deadline=100))
    for nodes in (1, 2):
        rows |= _kept(folder, partial(torchrun, script_of_torchrun, folder, nodes=[{}] * nodes, deadline=100))
    return rows
