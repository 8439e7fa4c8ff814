"""The index of a sharded checkpoint: which file holds which keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_init.checkpoint.confined import unsafe
from lightning_init.errors import Fault, checkpoint_error
from lightning_init.text import quoted

__all__ = ["Index", "is_index", "read_index"]

# The largest models have indexes of a few megabytes; what is larger than this is something else.
_LIMIT = 100_000_000


@dataclass(frozen=True)
class Index:
    """What an index says.

    Attributes:
        holders: The shard of each key, in the order of the index; keys of refused shards are not among them.
        shards: The keys of each shard.
        faults: What is wrong with single keys and names.
    """

    holders: Mapping[str, str]
    shards: Mapping[str, tuple[str, ...]]
    faults: tuple[Fault, ...]


def is_index(head: bytes) -> bool:
    """Whether a file that starts with these bytes can only be an index: it starts as JSON does."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def read_index(path: Path) -> Index:
    """Reads an index; no shard is looked for.

    Raises:
        CheckpointError: It cannot be read, is not JSON, or has no ``weight_map`` of names.
    """
    listed = _weight_map(path)
    holders: dict[str, str] = {}
    repeated: dict[tuple[str, str], list[str]] = {}
    shards: dict[str, list[str]] = {}
    for key, shard in listed:
        if not isinstance(shard, str):
            raise checkpoint_error(
                f"the index {str(path)!r} must name a file for every key, but has {shard!r} for {key!r}"
            )
        if key in holders:
            repeated.setdefault((holders[key], shard), []).append(key)
        else:
            holders[key] = shard
            shards.setdefault(shard, []).append(key)
    reasons = {shard: reason for shard in shards if (reason := unsafe(shard))}
    faults = [
        f"names the shard {shard!r}, which {reason}; a shard must lie in the folder of its index"
        for shard, reason in reasons.items()
    ]
    faults += [
        f"lists {quoted(keys)} twice, " + (f"in {one!r} and {two!r}" if one != two else f"both times in {one!r}")
        for (one, two), keys in repeated.items()
    ]
    return Index(
        {key: shard for key, shard in holders.items() if shard not in reasons},
        {shard: tuple(keys) for shard, keys in shards.items() if shard not in reasons},
        tuple(Fault("checkpoint", f"the index {str(path)!r} {what}") for what in faults),
    )


class _Pairs(list[tuple[str, object]]):
    """A JSON object with all that it holds, also what it holds twice."""


def _weight_map(path: Path) -> _Pairs:
    try:
        if path.stat().st_size > _LIMIT:
            raise checkpoint_error(
                f"{str(path)!r} starts as JSON does, but is too large for an index of shards; name a checkpoint"
            )
        content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=_Pairs)
    except OSError as error:
        raise checkpoint_error(f"the index {str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise checkpoint_error(
            f"{str(path)!r} starts as an index of shards does, but is not JSON ({error}); fetch or save it again"
        ) from error
    found = [value for key, value in content if key == "weight_map"]
    if not found:
        raise checkpoint_error(
            f"{str(path)!r} is JSON without a 'weight_map', so it is no index of shards; name the checkpoint itself"
        )
    if len(found) > 1:
        raise checkpoint_error(f"the index {str(path)!r} has {len(found)} entries 'weight_map'; fetch or save it again")
    (listed,) = found
    if not isinstance(listed, _Pairs):
        raise checkpoint_error(
            f"the 'weight_map' of {str(path)!r} must give the file of every key, got {str(listed)[:40]!r}"
        )
    if not listed:
        raise checkpoint_error(f"the 'weight_map' of {str(path)!r} is empty: it names no tensor")
    return listed
