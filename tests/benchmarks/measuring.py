"""Time, memory and reading of what several ranks do at once, each in a process of its own.

- seconds: from the first rank's start to the last one's end.
- anonymous MiB: the most that a rank had on top of what it had before, as another process sees it (``RssAnon``) every
  2 ms. Pages of a mapped file do not count, since the kernel can drop them.
- read MiB: what came from the disk, all ranks together; see `drop_from_cache`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from tests.distributed.harness import find_free_port

__all__ = ["MIB", "Figures", "Job", "drop_from_cache", "machine", "measure"]

MIB = 2**20

Job: TypeAlias = Callable[[], tuple[Callable[[], object], Callable[[], object]]]
"""Prepares what is measured, on every rank: gives that, and what tells its result afterwards."""


@dataclass(frozen=True)
class Figures:
    """What one round on some ranks measured.

    Attributes:
        seconds: See above.
        anonymous: MiB, of the rank that had most.
        read: MiB.
        results: What the job told on every rank.
    """

    seconds: float
    anonymous: float
    read: float
    results: Sequence[object]


def measure(job: Job, ranks: int, *, preload: Sequence[str] = ()) -> Figures:
    """One round.

    Args:
        job: A function of the top level of a module, or a partial of one. With several ranks the process group is up.
        ranks: How many there are.
        preload: Modules that every process has imported when it starts.
    """
    port = find_free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_init", *preload])
    processes: list[tuple[ForkServerProcess, Connection]] = []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=_be_rank, args=(job, rank, ranks, port, theirs))
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
        results=[each["result"] for each, _ in told],
    )


def _be_rank(job: Job, rank: int, ranks: int, port: int, told: Connection) -> None:
    """One rank, in a process of its own; sends what it measured."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks))
    # As launchers share the cores out.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    if ranks > 1:
        dist.init_process_group("gloo")
    run, result = job()
    if ranks > 1:
        dist.barrier()
    before, read, start = _status("RssAnon"), _disk_bytes(), time.monotonic()
    run()
    end = time.monotonic()
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    told.send({"before": before, "start": start, "end": end, "read": _disk_bytes() - read, "result": result()})


def _follow(process: ForkServerProcess, told: Connection) -> tuple[dict[str, Any], list[tuple[float, int]]]:
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


def _status(name: str, pid: int | str | None = "self") -> int:
    """A line of ``/proc/<pid>/status``, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _disk_bytes() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def drop_from_cache(path: Path) -> None:
    """Lets the next round read a file, or all files of a folder, from the disk."""
    for each in path.iterdir() if path.is_dir() else [path]:
        file = os.open(each, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def machine() -> str:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"torch {torch.__version__}, {os.cpu_count()} cores, {memory:.0f} GiB"
