"""How long a 1 GiB checkpoint takes to load into a model, and how much memory, here and with the usual ways.

Run it from the root of the repository: ``python -m tests.benchmarks.pretrained``. Every figure is taken in processes
of their own, by turns, so that one way does not profit from another. The model is built and all its memory touched
before the clock starts; ranks start together, and the slowest counts.

- seconds: the median over the rounds, the file being in the page cache.
- anonymous MiB: the most that a rank had on top of the model while it loaded, as another process sees it
  (``RssAnon``). Pages of a mapped file do not count, since the kernel can drop them.
- read MiB: what one round read from the disk, all ranks together, after the file was dropped from the page cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_init import init_weights
from lightning_init.text import columns
from tests.distributed.harness import find_free_port
from tests.forks import clean_context

MIB = 2**20
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


def _status(name: str, pid: int | str | None = "self") -> int:
    """A line of ``/proc/<pid>/status``, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _disk_bytes() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def be_rank(index: int, path: str, layers: int, rank: int, ranks: int, port: int, told: Connection) -> None:
    """One rank of one measurement, in a process of its own; sends what it measured."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks))
    # As launchers share the cores out.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    way = WAYS[index]
    model = build(layers)
    # What is done once in a program, such as imports, does not belong to the loading.
    way.load(str(Path(path).with_name(f"small-{Path(path).name}")), build(1))
    if ranks > 1:
        dist.init_process_group("gloo")
        dist.barrier()
    before, read, start = _status("RssAnon"), _disk_bytes(), time.monotonic()
    way.load(path, model)
    end = time.monotonic()
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    total = model.get_parameter(f"{layers - 1}.weight").detach().sum().item()
    told.send({"before": before, "start": start, "end": end, "read": _disk_bytes() - read, "sum": total})


@dataclass(frozen=True)
class Figures:
    """What one round of one way on some ranks measured."""

    seconds: float
    anonymous: float
    read: float
    checksum: float


def measure(index: int, path: Path, ranks: int, layers: int, *, cold: bool) -> Figures:
    """One round."""
    if cold:
        _drop_from_cache(path)
    port = find_free_port()
    context = clean_context(["mmengine.model", "safetensors.torch"])
    processes: list[tuple[BaseProcess, Connection]] = []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        arguments = (index, os.fspath(path), layers, rank, ranks, port, theirs)
        process = context.Process(target=be_rank, args=arguments)
        process.start()
        processes.append((process, ours))
    with ThreadPoolExecutor(ranks) as pool:
        told = list(pool.map(lambda each: _follow(*each), processes))
    start = min(each["start"] for each, _ in told)
    return Figures(
        seconds=max(each["end"] for each, _ in told) - start,
        anonymous=max(
            max((held for at, held in held_at if each["start"] <= at <= each["end"]), default=each["before"])
            - each["before"]
            for each, held_at in told
        )
        / MIB,
        read=sum(each["read"] for each, _ in told) / MIB,
        checksum=told[0][0]["sum"],
    )


def _follow(process: BaseProcess, told: Connection) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """What a rank tells, and its anonymous memory over time, seen from outside."""
    held: list[tuple[float, int]] = []
    while process.is_alive() and not told.poll(0.002):
        try:
            held.append((time.monotonic(), _status("RssAnon", process.pid)))
        except (OSError, KeyError):
            break  # it has just ended
    if not told.poll():
        raise RuntimeError("a rank ended without a result; its traceback is above")
    measured: dict[str, Any] = told.recv()
    process.join()
    return measured, held


def _drop_from_cache(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


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
    cold = [measure(i, folder / way.file, ranks, layers, cold=True) for i, way in enumerate(WAYS)]
    warm: list[list[Figures]] = [[] for _ in WAYS]
    for _ in range(rounds):
        for i, way in enumerate(WAYS):
            warm[i].append(measure(i, folder / way.file, ranks, layers, cold=False))
    assert len({figures.checksum for figures in cold}) == 1, "the ways loaded different weights"
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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{arguments.mib} MiB of float32 in layers of 16 MiB; torch {torch.__version__}, {os.cpu_count()} cores,")
    print(f"{memory:.0f} GiB; ratio: to the fastest of the other ways in this run\n")
    print(columns(rows))


if __name__ == "__main__":
    main()
