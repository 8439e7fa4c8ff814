"""Which ranks still answer, asked after a collective operation failed: its own error does not name them."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist

__all__ = ["absent"]

PATIENCE = 3.0
"""Seconds that the others have to answer; those that noticed the failure do so at once."""


def absent(question: str) -> list[int] | None:
    """The ranks that do not answer.

    Args:
        question: What every rank asks that noticed the same failure.

    Returns:
        The ranks; None if the store in which ranks meet is gone, with the process that holds it.
    """
    # torch gives it to nobody officially; it is not broken by what broke the process group.
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
    before: timedelta = store.timeout  # type: ignore[attr-defined]  # missing in torch's annotations
    store.set_timeout(timedelta(seconds=PATIENCE))
    try:
        store.set(f"lightning_init/{question}/{dist.get_rank()}", "here")
        waiting = set(range(dist.get_world_size()))
        end = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < end:
            waiting = {i for i in waiting if not store.check([f"lightning_init/{question}/{i}"])}
            time.sleep(0.02)
    except dist.DistError:
        return None
    finally:
        store.set_timeout(before)
    return sorted(waiting)
