"""How long a 1 GiB checkpoint takes to load into a model, and how much memory, here and with the usual ways.

Run it from the root of the repository: ``python -m tests.benchmarks.pretrained``. Every figure is taken in processes
of their own, by turns, so that one way does not profit from another. The model is built and all its memory touched
before the clock starts; ranks start together, and the slowest counts. Seconds are the median over the rounds, the file
being in the page cache; what is read is that of a round before, without it. What the figures are,
`tests.benchmarks.measuring` says.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_init import init_weights
from lightning_init.text import columns
from tests.benchmarks.measuring import MIB, Figures, drop_from_cache, machine, measure

WIDTH = 2048
"""A layer of this width has 16 MiB of weights."""


@dataclass(frozen=True)
class Way:
    """One way to load.

    Attributes:
        name: What the table calls it.
        file: Which of the files it reads.
        load: Loads the file into the model.
    """

    name: str
    file: str
    load: Callable[[str, nn.Module], object]


def _torch_load(path: str, model: nn.Module, *, mmap: bool) -> None:
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))


def _mmengine(path: str, model: nn.Module) -> None:
    from mmengine.logging import MMLogger  # noqa: PLC0415 - heavy, and only this way needs it
    from mmengine.model import PretrainedInit  # noqa: PLC0415 - the same

    MMLogger.get_current_instance().setLevel("ERROR")
    PretrainedInit(checkpoint=path)(model)


def _ours(path: str, model: nn.Module) -> None:
    init_weights(model, {"type": "Pretrained", "checkpoint": path}, seed=0)


WAYS = [
    Way("torch.load, load_state_dict", "w.pth", lambda path, model: _torch_load(path, model, mmap=False)),
    Way("torch.load(mmap=True), load_state_dict", "w.pth", lambda path, model: _torch_load(path, model, mmap=True)),
    Way("safetensors load_file, load_state_dict", "w.safetensors", lambda p, m: m.load_state_dict(load_file(p))),
    Way("MMEngine Pretrained", "w.pth", _mmengine),
    Way("lightning_init Pretrained", "w.pth", _ours),
    Way("lightning_init Pretrained", "w.safetensors", _ours),
    Way("torch.load, load_state_dict", "legacy.pth", lambda path, model: _torch_load(path, model, mmap=False)),
    Way("lightning_init Pretrained", "legacy.pth", _ours),
]


def build(layers: int) -> nn.Module:
    """The model; every page of it is written."""
    with torch.no_grad(), torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def write_files(folder: Path, layers: int) -> None:
    """The same random weights in every format."""
    generator = torch.Generator().manual_seed(0)
    state = {f"{i}.weight": torch.randn(WIDTH, WIDTH, generator=generator) for i in range(layers)}
    torch.save(state, folder / "w.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "w.safetensors")


def job(index: int, path: Path, layers: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """What is measured of one way."""
    way, model = WAYS[index], build(layers)
    # What is done once in a program, such as imports, does not belong to the loading.
    way.load(str(path.with_name(f"small-{path.name}")), build(1))
    checked = model.get_parameter(f"{layers - 1}.weight")
    return partial(way.load, str(path), model), lambda: checked.detach().sum().item()


def _measured(index: int, path: Path, ranks: int, layers: int, *, cold: bool) -> Figures:
    """One round."""
    if cold:
        drop_from_cache(path)
    return measure(partial(job, index, path, layers), ranks, preload=["mmengine.model", "safetensors.torch"])


def table(layers: int, rounds: int, worlds: list[int]) -> Iterator[list[str]]:
    """The rows of the table, header first."""
    yield ["ranks", "way", "file", "seconds", "ratio", "anonymous MiB", "read MiB"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, 1)
        for way in WAYS:
            file = folder / way.file
            if not (folder / f"small-{way.file}").exists():
                file.rename(folder / f"small-{way.file}")
        write_files(folder, layers)
        for ranks in worlds:
            yield from _rows(folder, ranks, layers, rounds)


def _rows(folder: Path, ranks: int, layers: int, rounds: int) -> Iterator[list[str]]:
    cold = [_measured(i, folder / way.file, ranks, layers, cold=True) for i, way in enumerate(WAYS)]
    warm: list[list[Figures]] = [[] for _ in WAYS]
    for _ in range(rounds):
        for i, way in enumerate(WAYS):
            warm[i].append(_measured(i, folder / way.file, ranks, layers, cold=False))
    assert len({result for figures in cold for result in figures.results}) == 1, "the ways loaded different weights"
    seconds = [statistics.median(figures.seconds for figures in each) for each in warm]
    best = min(second for second, way in zip(seconds, WAYS, strict=True) if "lightning_init" not in way.name)
    for i, way in enumerate(WAYS):
        held = max(figures.anonymous for figures in warm[i])
        cells = [f"{seconds[i]:.2f}", f"{seconds[i] / best:.2f}", f"{held:.0f}", f"{cold[i].read:.0f}"]
        yield [str(ranks), way.name, way.file, *cells]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the model (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds with the file in the page cache (default: 5)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes (default: 1 2 4)")
    arguments = parser.parse_args()
    layers = arguments.mib * MIB // (4 * WIDTH * WIDTH)
    rows = list(table(layers, arguments.rounds, arguments.ranks))
    print(f"{arguments.mib} MiB of float32 in layers of 16 MiB; {machine()}")
    print("ratio: to the fastest of the other ways in this run\n")
    print(columns(rows))


if __name__ == "__main__":
    main()
