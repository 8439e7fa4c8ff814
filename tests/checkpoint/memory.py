"""How much memory it takes to read a checkpoint, in a process that does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lightning_init.checkpoint.formats.recognise import open_checkpoint
from tests.distributed.harness import run_ranks

__all__ = ["needs_proc", "read_one_by_one"]

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells anonymous memory")


def read_one_by_one(small: Path, paths: Sequence[Path]) -> list[tuple[int, float, float]]:
    """Reads all tensors of checkpoints, one after the other, in a new process.

    Args:
        small: A checkpoint that is read before: what is loaded once, such as modules, does not count.
        paths: The checkpoints.

    Returns:
        For each, how many tensors it has, the most anonymous memory on top in MiB, and the sum of all elements.
    """
    (found,) = run_ranks(1, _read, [small, *paths], process_group=False)
    return found[1:]


def _read(paths: list[Path]) -> list[tuple[int, float, float]]:
    found = []
    for path in paths:
        before = peak = _anonymous()
        total = 0.0
        with open_checkpoint(path) as checkpoint:
            for key in checkpoint.entries:
                value = checkpoint.read(key)
                total += value.sum().item()
                peak = max(peak, _anonymous())
                del value
            found.append((len(checkpoint.entries), peak - before, total))
    return found


def _anonymous() -> float:
    """The anonymous memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024
