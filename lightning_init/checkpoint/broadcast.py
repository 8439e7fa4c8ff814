"""A checkpoint that rank zero alone reads, and the other ranks receive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_init import distributed
from lightning_init.checkpoint.base import Checkpoint, Entry
from lightning_init.sharding import Share

__all__ = ["BroadcastCheckpoint"]


class BroadcastCheckpoint(Checkpoint):
    """A checkpoint that rank zero opens and reads for all ranks.

    Making one, `read` and `load` are collective: all ranks do the same in the same order. What fails on rank zero is
    raised on every rank. In a single process it is the checkpoint itself.

    Args:
        open_checkpoint: Opens it; called on rank zero only.

    Raises:
        CheckpointError: Rank zero could not open it.
        RankError: The ranks are not at the same point.
    """

    def __init__(self, open_checkpoint: Callable[[], Checkpoint]) -> None:
        self._opened: list[Checkpoint] = []

        def describe() -> tuple[str, dict[str, Entry], tuple[str, ...]]:
            self._opened.append(open_checkpoint())
            opened = self._opened[0]
            return opened.source, dict(opened.entries), opened.notes

        self.source, self.entries, self.notes = distributed.from_rank_zero("open a checkpoint", describe)

    def read(self, key: str) -> Tensor:
        """The values under one of the entries, on every rank.

        Returns:
            A dense CPU tensor; on rank zero perhaps a view of the file.

        Raises:
            CheckpointError: Rank zero could not read them.
            RankError: The ranks ask for different keys.
        """
        # Whatever can fail comes before the broadcast, which is not an exchange.
        found, sent = distributed.together(f"read {key!r} of {self.source!r}", partial(self._prepare, key))
        if sent is not None:
            dist.broadcast(sent, src=0)
        if found is not None:
            return found
        entry = self.entries[key]
        if sent is None:
            return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        return sent.cpu().view(entry.dtype).view(entry.shape)

    def load(self, key: str, into: Iterable[tuple[Tensor, Share]], device: torch.device) -> None:
        """Copies the values under one of the entries to where they belong; see `Checkpoint.load`."""
        # All of it at once: ranks hold different numbers of parts, and one without any takes part as well.
        whole = self.read(key).to(device)
        with torch.no_grad():
            for tensor, mine in into:
                mine.copy(tensor, whole)

    def _prepare(self, key: str) -> tuple[Tensor | None, Tensor | None]:
        """The values, where they are read, and the bytes to send or to receive into, if there are any.

        As bytes, since backends know fewer types than torch.
        """
        entry = self.entries[key]
        found = self._opened[0].read(key) if self._opened else None
        if distributed.world_size() == 1 or not prod(entry.shape):
            return found, None
        if found is None:
            return None, torch.empty(prod(entry.shape) * entry.dtype.itemsize, dtype=torch.uint8, device=_device())
        flat = found.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        return found, flat.to(_device())

    def close(self) -> None:
        """Lets the file go on rank zero; not collective."""
        while self._opened:
            self._opened.pop().close()


def _device() -> torch.device:
    """Where tensors have to be for the backend of the default group."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
