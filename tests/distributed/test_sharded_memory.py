"""A rank allocates its share and little more, and looks at its share of a file and little more."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_init import PretrainedInit
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.engine import execute
from lightning_init.settings import Settings, Sync
from lightning_init.storage import Storage
from tests.checkpoint.files import save_legacy, save_safetensors, save_zip
from tests.checkpoint.folders_of_torch import save
from tests.distributed.harness import run_ranks

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells these figures")

TENSOR = 8
"""MiB of one tensor; the model has two."""

SLACK = 3
"""MiB that a rank may take on top: a block of random numbers, a piece of a file."""

FRINGE = 4
"""MiB of a file that may be mapped on top: at both ends of a part the kernel may map a huge page for one byte of it."""

SAMPLES = 0.1
"""MiB of the single elements by which ranks tell that they read the same file."""

_M_MMAP_THRESHOLD = -3

SAVERS: dict[str, Callable[..., object]] = {
    "w.pth": save_zip,
    "w.legacy": save_legacy,
    "w.safetensors": save_safetensors,
    "w.dcp": save,
}


def build() -> nn.Module:
    with torch.device("meta"):
        net = nn.Sequential(*(nn.Linear(1024, TENSOR * 256, bias=False) for _ in range(2)))
    mesh = init_device_mesh("cpu", (2,))
    for layer in net:
        fully_shard(layer, mesh=mesh)
    return net


class Watch(TorchDispatchMode):
    """Looks at the anonymous memory of this process after every operation of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before = self.most = anonymous()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, anonymous())
        return result


def anonymous() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def looked_at(path: Path) -> float:
    """MiB of the pages of a file, or of those in a folder, that this process has mapped."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split(" ", 1)[0]
        if not first.endswith(":"):
            inside = str(path) in line
        elif inside and first == "Rss:":
            found += int(line.split()[1])
    return found / 1024


@contextmanager
def seen_at_the_end(path: Path) -> Iterator[list[float]]:
    """What has been looked at of a file when it is let go."""
    seen: list[float] = []
    whole = PretrainedInit.open

    def opened(self: PretrainedInit) -> Checkpoint:
        checkpoint = whole(self)
        close = checkpoint.close

        def closing() -> None:
            seen.append(looked_at(path))
            close()

        checkpoint.close = closing  # type: ignore[method-assign]
        return checkpoint

    PretrainedInit.open = opened  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        PretrainedInit.open = whole  # type: ignore[method-assign]


def taken(rule: dict[str, Any], sync: Sync = "rank_zero_first") -> float:
    """MiB that a rank takes at most for a model without storage."""
    net = build()
    gc.collect()
    with Watch() as watch:
        execute(net, Settings(seed=0, sync=sync), init_cfg=rule, storage=Storage(torch.device("cpu")))
    most: float = watch.most - watch.before
    return most


def figures(folder: Path) -> dict[str, tuple[float, float]]:
    # Tensors get memory of their own, which goes back to the system with them, whatever was freed before.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**16)
    # What is made once in a process does not count.
    taken({"type": "Normal", "layer": "Linear"})
    found = {"random": (taken({"type": "Normal", "layer": "Linear"}), 0.0)}
    for name in SAVERS:
        with seen_at_the_end(folder / name) as seen:
            most = taken({"type": "Pretrained", "checkpoint": folder / name})
        found[name] = (most, *seen)  # type: ignore[assignment]  # it is let go once
    rule = {"type": "Pretrained", "checkpoint": folder / "w.pth"}
    return found | {"broadcast": (taken(rule, "broadcast"), 0.0)}


def test_a_rank_takes_and_reads_its_share(tmp_path: Path) -> None:
    values = {f"{i}.weight": torch.full((TENSOR * 256, 1024), float(i)) for i in range(2)}
    for name, saver in SAVERS.items():
        saver(values, tmp_path / name)
    for found in run_ranks(2, figures, tmp_path):
        # One tensor at a time passes through every rank.
        assert TENSOR <= found.pop("broadcast")[0] < 2 * TENSOR + SLACK
        for name, (most, seen) in found.items():
            assert TENSOR <= most < TENSOR + SLACK, (name, most)
            assert name == "random" or TENSOR <= seen <= TENSOR + FRINGE + SAMPLES, (name, seen)
