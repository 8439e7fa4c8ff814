"""What ranks tell each other, on ``torch.distributed`` alone; in a single process nothing happens here.

Everything crosses ranks as an *outcome*, a value or an error, and through one primitive. A rank that fails posts its
error to whichever exchange the others are waiting in, so nobody is left at a barrier and every rank raises.

Exchanges nest. A failure in one that all ranks take part in is an exception like others: whoever catches it goes on,
and the exchange around it follows. Ranks that meet in different exchanges have lost each other: what is raised then
ends the outermost exchange on every rank, even if something in between catches it, since no other would be answered.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lightning_init.errors import CheckpointError, Fault, InitConfigError, InitError, RankError
from lightning_init.presence import absent

__all__ = ["agree", "from_all", "from_rank_zero", "one_first", "rank", "together", "world_size"]

T = TypeVar("T")

# What an error of several ranks is raised as: the first of these that one of them is. Classes of users are not sent,
# since another process may lack them.
_KINDS = (InitConfigError, RankError, CheckpointError, InitError)


@dataclass(frozen=True)
class _Outcome:
    """What one rank reports of one exchange.

    Attributes:
        place: The stages that the rank is in, from the outermost.
        value: What it has to tell.
        kind: The class of an error of this library.
        faults: What that error says.
        crash: Any other error, with its traceback.
    """

    place: tuple[str, ...]
    value: Any = None
    kind: type[InitError] | None = None
    faults: tuple[Fault, ...] = ()
    crash: str = ""

    @property
    def where(self) -> str:
        return " of ".join(map(repr, reversed(self.place)))

    @property
    def told(self) -> str:
        """What went wrong on the rank itself, behind another message."""
        wrong = self.crash or "\n".join(map(str, self.faults))
        return f"\nBefore that, on this rank: {wrong}" if wrong else ""


@dataclass
class _Talk:
    """The exchange that runs, with those that it is nested in.

    Attributes:
        place: Their stages, from the outermost.
        lost: What was raised when the ranks met in different exchanges.
    """

    place: list[str] = field(default_factory=list)
    lost: Exception | None = None


_talk: ContextVar[_Talk | None] = ContextVar("lightning_init_talk", default=None)


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


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
    with _inside(stage) as talk:
        value, failure = _attempt(run)
        _exchange(talk, failure=failure)
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
    with _inside(stage) as talk:

        def take_turn(*, is_mine: bool, at_once: int = 1) -> list[Any]:
            nonlocal value
            failure = None
            if is_mine:
                with _all_cores(at_once):
                    value, failure = _attempt(run)
            return [outcome.value for outcome in _exchange(talk, _node(), failure)]

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

    with _inside(stage) as talk:
        value, failure = _attempt(run_and_pack) if rank() == 0 else (None, None)
        outcomes = _exchange(talk, value, failure)
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
    with _inside(stage) as talk:
        outcomes = _exchange(talk, (dict(items), dict(shares or {})))
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
            told([f"{name} ({_ranks(those)} against rank {first})" for (name, first), those in differing.items()])
        )


def from_all(stage: str, value: T) -> list[T]:
    """The values of all ranks, in their order.

    Args:
        stage: As for `together`.
        value: That of this rank; it must pickle.
    """
    if world_size() == 1:
        return [value]
    with _inside(stage) as talk:
        return [outcome.value for outcome in _exchange(talk, value)]


@contextmanager
def _inside(stage: str) -> Iterator[_Talk]:
    outer = _talk.get()
    talk = _Talk() if outer is None else outer
    token = _talk.set(talk)
    talk.place.append(stage)
    try:
        yield talk
    finally:
        talk.place.pop()
        _talk.reset(token)


def _attempt(run: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return run(), None
    except Exception as error:  # noqa: BLE001  # whatever it is, the other ranks have to hear of it
        return None, error


def _exchange(talk: _Talk, value: Any = None, failure: Exception | None = None) -> list[_Outcome]:
    """Tells the other ranks what happened here; raises what happened on any of them."""
    if talk.lost is not None:
        raise talk.lost
    mine = _outcome(tuple(talk.place), value, failure)
    outcomes = [mine] * world_size()
    try:
        dist.all_gather_object(outcomes, mine)
    except RuntimeError as broken:
        # The process group is of no use any more.
        talk.lost = RankError(_gone(mine, broken))
        raise talk.lost from failure or broken
    met = len({outcome.place for outcome in outcomes}) == 1
    error = _error(outcomes, failure)
    if error is None and met:
        return outcomes
    if error is None:
        told = ", ".join(f"rank {i} at {outcome.where}" for i, outcome in enumerate(outcomes))
        error = RankError(f"the ranks take different ways: {told}; give every rank the same model and config")
    if not met:
        talk.lost = error
    if error is failure:
        raise error
    raise error from failure


def _gone(mine: _Outcome, error: RuntimeError) -> str:
    """What is said where the ranks cannot be reached any more."""
    ranks = absent("/".join(mine.place))
    if ranks is None:
        who = "rank 0, or whoever holds the store of the process group, is gone"
    elif ranks:
        who = f"no answer from {_ranks(ranks)}, which ended or hang"
    else:
        who = "all ranks answer by now; one was later than the timeout of the process group allows"
    cause = str(error).partition(". ")[0]
    return f"the ranks lost each other in {mine.where}: {who} ({cause}){mine.told}"


def _outcome(place: tuple[str, ...], value: Any, failure: Exception | None) -> _Outcome:
    if failure is None:
        return _Outcome(place, value)
    if isinstance(failure, InitError):
        kind = next(kind for kind in _KINDS if isinstance(failure, kind))
        return _Outcome(place, kind=kind, faults=failure.faults)
    told = "".join(traceback.format_exception(failure))
    return _Outcome(place, crash=f"{type(failure).__name__}: {failure}\n{told}")


def _error(outcomes: Sequence[_Outcome], mine: Exception | None) -> Exception | None:
    """What this rank raises; on all ranks the same, but for the error of another library on the rank that it hit."""
    for i, outcome in enumerate(outcomes):
        if outcome.crash:
            foreign = mine is not None and not isinstance(mine, InitError)
            return mine if foreign else RankError(f"rank {i} failed in {outcome.where}: {outcome.crash}")
    kinds = [outcome.kind for outcome in outcomes if outcome.kind is not None]
    if not kinds:
        return None
    raised_by: dict[Fault, list[int]] = {}
    for i, outcome in enumerate(outcomes):
        for fault in dict.fromkeys(outcome.faults):
            raised_by.setdefault(fault, []).append(i)
    faults = [
        fault if len(those) == len(outcomes) else Fault(fault.where, f"{fault.what} [on {_ranks(those)}]")
        for fault, those in raised_by.items()
    ]
    kind = min(kinds, key=_KINDS.index)
    if isinstance(mine, kind) and mine.faults == tuple(faults):
        return mine
    return kind(faults)


def _ranks(those: Sequence[int]) -> str:
    return f"rank{'s' if len(those) > 1 else ''} {', '.join(map(str, those))}"
