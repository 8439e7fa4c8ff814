"""How much memory, and how much reading, it takes to initialise a model that is spread over ranks by FSDP2.

Run it from the root of the repository: ``python -m tests.benchmarks.sharded``. The model is built on ``meta``, so that
no rank ever holds it as a whole; what is measured begins when it has no storage yet. The file is not in the page cache.
All ways end with the same bits, which is checked. What the figures are, `tests.benchmarks.measuring` says.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_init import init_weights
from lightning_init.digests import digest
from lightning_init.engine import execute
from lightning_init.settings import Settings
from lightning_init.text import columns
from tests.benchmarks.measuring import MIB, drop_from_cache, machine, measure

WIDTH = 2048
"""A layer of this width has 16 MiB of weights."""

RANDOM = {"type": "Kaiming", "layer": "Linear"}


@dataclass(frozen=True)
class Way:
    """One way to give a model its weights.

    Attributes:
        name: What the table calls it.
        file: The file or folder that it reads; empty if it reads none.
        fill: Fills the model from there.
    """

    name: str
    file: str
    fill: Callable[[Path, nn.Module], object]


def _random(_: Path, model: nn.Module) -> None:
    init_weights(model, RANDOM, seed=0)


def _ours(path: Path, model: nn.Module) -> None:
    init_weights(model, {"type": "Pretrained", "checkpoint": path}, seed=0)


def _broadcast(path: Path, model: nn.Module) -> None:
    execute(model, Settings(seed=0, sync="broadcast"), init_cfg={"type": "Pretrained", "checkpoint": path})


def _dcp_load(path: Path, model: nn.Module) -> None:
    dcp.load(model.state_dict(), checkpoint_id=path)


def _scatter(path: Path, model: nn.Module) -> None:
    state = torch.load(path, mmap=True, weights_only=True) if dist.get_rank() == 0 else {}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


WAYS = [
    Way("lightning_init Kaiming", "", _random),
    Way("lightning_init Pretrained", "w.safetensors", _ours),
    Way("lightning_init Pretrained", "w.pth", _ours),
    Way("lightning_init Pretrained", "legacy.pth", _ours),
    Way("lightning_init Pretrained", "dcp of one process", _ours),
    Way("lightning_init Pretrained", "dcp of all ranks", _ours),
    Way('lightning_init Pretrained, sync="broadcast"', "w.pth", _broadcast),
    Way("torch dcp.load", "dcp of all ranks", _dcp_load),
    Way("torch set_model_state_dict(broadcast_from_rank0=True)", "w.pth", _scatter),
]


def build(layers: int) -> nn.Module:
    """The model on ``meta``, spread over the ranks if there are several."""
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def job(index: int, folder: Path, layers: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """What is measured of one way."""
    way, model = WAYS[index], build(layers)

    def run(model: nn.Module = model, folder: Path = folder) -> None:
        model.to_empty(device="cpu")
        way.fill(folder / way.file, model)

    # What is done once in a program, such as imports, does not belong to it.
    run(build(1), folder / "small")
    return run, lambda: digest(model.parameters())


def saving(folder: Path, layers: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Saves a folder of ``torch.distributed.checkpoint``, every rank its share."""
    model = build(layers).to_empty(device="cpu")
    init_weights(model, RANDOM, seed=0)
    return partial(dcp.save, model.state_dict(), checkpoint_id=folder), lambda: None


def write_files(folder: Path, layers: int, ranks: int) -> None:
    """The weights that the random fill gives, in every format."""
    folder.mkdir(exist_ok=True)
    model = build(layers).to_empty(device="cpu")
    init_weights(model, RANDOM, seed=0)
    state = model.state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        # That this is a single process.
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder / "dcp of one process", no_dist=True)
    measure(partial(saving, folder / "dcp of all ranks", layers), ranks)


def table(layers: int, ranks: int) -> Iterator[list[str]]:
    """The rows of the table, header first."""
    yield ["way", "file", "anonymous MiB", "beyond the shard", "read MiB"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, layers, ranks)
        write_files(folder / "small", 1, ranks)
        shard = layers * WIDTH * WIDTH * 4 / MIB / ranks
        found: list[object] = []
        for i, way in enumerate(WAYS):
            if way.file:
                drop_from_cache(folder / way.file)
            figures = measure(partial(job, i, folder, layers), ranks)
            found.append(figures.results)
            assert found[0] == figures.results, f"{way} gave other weights"
            cells = (figures.anonymous, figures.anonymous - shard, figures.read)
            yield [way.name, way.file or "-", *(f"{cell:.0f}" for cell in cells)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the model (default: 1024)")
    parser.add_argument("--ranks", type=int, default=4, help="number of processes (default: 4)")
    arguments = parser.parse_args()
    rows = list(table(arguments.mib * MIB // (4 * WIDTH * WIDTH), arguments.ranks))
    print(f"{arguments.mib} MiB of float32 in layers of 16 MiB on {arguments.ranks} ranks; {machine()}\n")
    print(columns(rows))


if __name__ == "__main__":
    main()
