"""Checkpoints in several files, with an index that tells which file holds which keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint, Entry, Piece, Reading
from lightning_init.checkpoint.confined import leads_out
from lightning_init.checkpoint.index import Index, is_index, read_index
from lightning_init.errors import CheckpointError, Fault
from lightning_init.sharding import Share
from lightning_init.text import quoted

__all__ = ["ShardedCheckpoint"]


class ShardedCheckpoint(Checkpoint):
    """An index such as ``model.safetensors.index.json`` and the shards that it names.

    A tensor in a shard that the index does not list is there all the same, after those that it lists.

    Args:
        path: The index; its shards lie in the same folder or below.
        reading: What of the shards is wanted; they have no containers.
        open_shard: Opens one of them.
    """

    def __init__(self, path: Path, reading: Reading, *, open_shard: Callable[[Path, Reading], Checkpoint]) -> None:
        self.source = os.fspath(path)
        self._shards: dict[str, Checkpoint] = {}
        if reading.container is not None or reading.ema:
            where = "ema" if reading.container is None else "container"
            what = f"{self.source!r} is an index of shards, whose tensors are in no container; choose among its keys"
            raise CheckpointError([Fault(where, f"{what} with prefix=...")])
        index = read_index(path)
        with ExitStack() as unless_opened:
            unless_opened.callback(self.close)
            faults = [*index.faults, *self._open(index, path, reading, open_shard)]
            self._holders, wrong = self._find(index)
            if faults + wrong:
                raise CheckpointError(faults + wrong)
            unless_opened.pop_all()
        self.entries: dict[str, Entry] = {key: self._shards[name].entries[key] for key, name in self._holders.items()}
        self.notes = self._gather_notes(index)

    def _open(
        self, index: Index, path: Path, reading: Reading, open_shard: Callable[[Path, Reading], Checkpoint]
    ) -> list[Fault]:
        """Opens all shards that can be opened; what is wrong with the others is returned."""
        faults: list[Fault] = []
        for name, keys in index.shards.items():
            shard = path.parent / name
            reason = _refusal(shard, path)
            if reason:
                faults.append(self._fault(f"names the shard {name!r}, which {reason}; it should hold {quoted(keys)}"))
                continue
            try:
                self._shards[name] = open_shard(shard, reading)
            except CheckpointError as error:
                faults += error.faults
        return faults

    def _find(self, index: Index) -> tuple[dict[str, str], list[Fault]]:
        """The shard of each key, and what the open shards lack or hold twice."""
        holders = dict(index.holders)
        faults: list[Fault] = []
        doubles: dict[tuple[str, str], list[str]] = {}
        for name, shard in self._shards.items():
            lacking = [key for key in index.shards[name] if key not in shard.entries]
            if lacking:
                faults.append(self._fault(f"lists {quoted(lacking)} for the shard {name!r}, which lacks them"))
            for key in shard.entries:
                other = holders.setdefault(key, name)
                if other != name and other in self._shards and key in self._shards[other].entries:
                    doubles.setdefault((other, name), []).append(key)
        faults += [
            self._fault(f"names two shards that both hold {quoted(keys)}: {one!r} and {two!r}")
            for (one, two), keys in doubles.items()
        ]
        return holders, faults

    def _fault(self, what: str) -> Fault:
        return Fault("checkpoint", f"the index {self.source!r} {what}")

    def _gather_notes(self, index: Index) -> tuple[str, ...]:
        notes = [note for shard in self._shards.values() for note in shard.notes]
        unlisted = [key for key in self.entries if key not in index.holders]
        if unlisted:
            notes.append(f"its shards hold keys that the index does not list, taken as well: {quoted(unlisted)}")
        return tuple(dict.fromkeys(notes))

    def read(self, key: str) -> Tensor:
        """The values under one of the entries; see `Checkpoint.read`."""
        return self._shards[self._holders[key]].read(key)

    def pieces(self, key: str, mine: Share) -> Iterator[Piece]:
        """What of an entry is in a share; see `Checkpoint.pieces`."""
        return self._shards[self._holders[key]].pieces(key, mine)

    def close(self) -> None:
        """Lets all shards go."""
        while self._shards:
            self._shards.popitem()[1].close()


def _refusal(shard: Path, index: Path) -> str:
    """Why a file cannot be a shard, before it is opened; empty if it may be one."""
    if not os.path.lexists(shard):
        return "is missing"
    try:
        if outside := leads_out(shard, index):
            return f"is a link that leads out of the folder, to {str(outside)!r}"
        if not shard.is_file():
            return "is no regular file" if shard.exists() else "is a link to nothing"
        with shard.open("rb") as file:
            head = file.read(512)
    except (OSError, RuntimeError) as error:
        return f"cannot be looked at ({error})"
    if not head:
        return "is an empty file"
    return "is an index itself, not a shard" if is_index(head) else ""
