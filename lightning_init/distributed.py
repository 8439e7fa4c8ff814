"""What ranks tell each other, on ``torch.distributed`` alone; in a single process nothing happens here.

Everything crosses ranks as an *outcome*, a value or an error, and through one primitive (`lightning_init.exchange`).
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from lightning_init.errors import RankError
from lightning_init.exchange import attempt, exchange, inside, rank, world_size
from lightning_init.outcomes import name_ranks

__all__ = ["agree", "from_all", "from_rank_zero", "one_first", "rank", "together", "world_size"]

T = TypeVar("T")


def together(stage: str, run: Callable[[], T]) -> T:
    """Runs something on every rank at once; an error on any rank is raised on all of them.

    Args:
        stage: What is done, for messages, and so that ranks that went different ways notice.
        run: What to do; it may itself hold exchanges.

    Returns:
        What ``run`` returned on this rank.

    Raises:
        InitError: A rank raised it, or several did; the message names them unless all raised the same.
        RankError: Another rank raised something else, or is at another stage.
    """
    if world_size() == 1:
        return run()
    with inside(stage) as talk:
        value, failure = attempt(run)
        exchange(talk, failure=failure)
    return value  # type: ignore[return-value]  # a failure has been raised by now


def one_first(stage: str, run: Callable[[], T]) -> T:
    """Runs something on rank zero, then on the first rank of every other node, then on all others.

    Each turn comes only if those before went well. On one node there are two turns. Meanwhile torch may use the cores
    of the ranks that wait.

    Args:
        stage: As for `together`.
        run: What to do, without exchanges in it.

    Returns:
        What ``run`` returned on this rank. Errors are those of `together`.
    """
    if world_size() == 1:
        return run()
    value: T | None = None
    with inside(stage) as talk:

        def take_turn(*, is_mine: bool, at_once: int = 1) -> list[Any]:
            nonlocal value
            failure = None
            if is_mine:
                with _all_cores(at_once):
                    value, failure = attempt(run)
            return [outcome.value for outcome in exchange(talk, _node(), failure)]

        nodes = take_turn(is_mine=rank() == 0)
        leaders = {nodes.index(node) for node in nodes} - {0}
        if leaders:
            take_turn(is_mine=rank() in leaders)
        take_turn(is_mine=rank() not in leaders | {0}, at_once=nodes.count(nodes[rank()]) - 1)
    return value  # type: ignore[return-value]  # set in one of the turns


@contextmanager
def _all_cores(ranks: int) -> Iterator[None]:
    """Shares the cores of this node between the ranks on it that work at once; launchers give each rank a part only."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(before, cores // ranks))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _node() -> tuple[str, str]:
    """What tells the node of this process from others; the variables are those of torchrun, Lightning and Slurm."""
    index = next((os.environ[name] for name in ("GROUP_RANK", "NODE_RANK", "SLURM_NODEID") if name in os.environ), "0")
    return socket.gethostname(), index


def from_rank_zero(stage: str, run: Callable[[], T]) -> T:
    """Runs something on rank zero alone and gives its value to every rank.

    Args:
        stage: As for `together`.
        run: What to do, without exchanges in it; its value must pickle.

    Returns:
        What ``run`` returned on rank zero. Errors are those of `together`.
    """
    if world_size() == 1:
        return run()

    def run_and_pack() -> T:
        value = run()
        # What does not pickle has to fail here, where it is an outcome, and not when outcomes are sent.
        pickle.dumps(value)
        return value

    with inside(stage) as talk:
        value, failure = attempt(run_and_pack) if rank() == 0 else (None, None)
        outcomes = exchange(talk, value, failure)
    return value if rank() == 0 else outcomes[0].value  # type: ignore[return-value]  # a failure has been raised


def agree(
    stage: str, items: Mapping[str, str], told: Callable[[list[str]], str], shares: Mapping[str, str] | None = None
) -> None:
    """Compares what the ranks hold.

    Args:
        stage: What is compared, for messages.
        items: A description by name; equal on all ranks if all is well.
        told: Makes the message from the names that differ.
        shares: The same for what only some ranks hold; equal on those.

    Raises:
        RankError: Some names differ, or stand among the items of some ranks only.
    """
    if world_size() == 1:
        return
    with inside(stage) as talk:
        outcomes = exchange(talk, (dict(items), dict(shares or {})))
    held: list[tuple[dict[str, str], dict[str, str]]] = [outcome.value for outcome in outcomes]
    differing: dict[tuple[str, int], list[int]] = {}
    of_all = held[0][0]
    first_holder: dict[str, int] = {}
    for i, (others, parts) in enumerate(held):
        for name in {**of_all, **others}:
            if of_all.get(name) != others.get(name):
                differing.setdefault((name, 0), []).append(i)
        for name, part in parts.items():
            first = first_holder.setdefault(name, i)
            if held[first][1][name] != part:
                differing.setdefault((name, first), []).append(i)
    if differing:
        raise RankError(
            told([f"{name} ({name_ranks(those)} against rank {first})" for (name, first), those in differing.items()])
        )


def from_all(stage: str, value: T) -> list[T]:
    """The values of all ranks, in their order.

    Args:
        stage: As for `together`.
        value: That of this rank; it must pickle.
    """
    if world_size() == 1:
        return [value]
    with inside(stage) as talk:
        return [outcome.value for outcome in exchange(talk, value)]
