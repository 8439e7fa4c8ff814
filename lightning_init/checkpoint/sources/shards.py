"""Names that a remote gives to files, before any of them is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning_init.checkpoint.confined import unsafe
from lightning_init.checkpoint.index import read_index
from lightning_init.errors import CheckpointError, Fault

__all__ = ["INDEX", "check_names", "shard_names"]

INDEX = ".index.json"
"""How the name of an index ends."""


def check_names(names: Iterable[str], source: str) -> None:
    """Looks whether each name, joined to a folder, stays in it.

    Args:
        names: What a remote lists, relative to the folder that is copied.
        source: What is copied, as it may be shown.

    Raises:
        CheckpointError: One does not.
    """
    faults = [f"{source!r} has a file {name!r} in it, which {reason}" for name in names if (reason := unsafe(name))]
    if faults:
        raise CheckpointError([Fault("checkpoint", f"{fault}; nothing was copied") for fault in faults])


def shard_names(index: Path, source: str) -> list[str]:
    """The files that the index of a sharded checkpoint names, each once, relative to it.

    Args:
        index: The index, on this machine.
        source: Where it comes from, as it may be shown.

    Raises:
        CheckpointError: It is no index, or names a file outside its folder.
    """
    try:
        found = read_index(index)
        faults = found.faults
    except CheckpointError as failure:
        faults = failure.faults
    if faults:
        raise CheckpointError([Fault(fault.where, f"{source!r}: {fault.what}") for fault in faults])
    return sorted(found.shards)
