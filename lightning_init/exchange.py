"""The one primitive through which ranks tell each other what happened.

A rank that fails posts its error to whichever exchange the others are waiting in, so nobody is left at a barrier and
every rank raises.

Exchanges nest. A failure in one that all ranks take part in is an exception like others: whoever catches it goes on,
and the exchange around it follows. Ranks that meet in different exchanges have lost each other: what is raised then
ends the outermost exchange on every rank, even if something in between catches it, since no other would be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch.distributed as dist

from lightning_init.errors import RankError
from lightning_init.outcomes import Outcome, common_error, name_ranks
from lightning_init.presence import absent

__all__ = ["Talk", "attempt", "exchange", "inside", "rank", "world_size"]

T = TypeVar("T")


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


@dataclass
class Talk:
    """The exchange that runs, with those that it is nested in.

    Attributes:
        place: Their stages, from the outermost.
        lost: What was raised when the ranks met in different exchanges.
    """

    place: list[str] = field(default_factory=list)
    lost: Exception | None = None


_talk: ContextVar[Talk | None] = ContextVar("lightning_init_talk", default=None)


@contextmanager
def inside(stage: str) -> Iterator[Talk]:
    """Within, this process is in an exchange; or in one more."""
    outer = _talk.get()
    talk = Talk() if outer is None else outer
    token = _talk.set(talk)
    talk.place.append(stage)
    try:
        yield talk
    finally:
        talk.place.pop()
        _talk.reset(token)


def attempt(run: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What something returned, and what it raised."""
    try:
        return run(), None
    except Exception as error:  # noqa: BLE001  # whatever it is, the other ranks have to hear of it
        return None, error


def exchange(talk: Talk, value: Any = None, failure: Exception | None = None) -> list[Outcome]:
    """Tells the other ranks what happened here; raises what happened on any of them.

    Args:
        talk: The exchange that this process is in.
        value: What it has to tell.
        failure: What it failed with.

    Returns:
        What every rank reports.

    Raises:
        RankError: The ranks met in different exchanges, or cannot be reached. Other errors are those of `common_error`.
    """
    if talk.lost is not None:
        raise talk.lost
    mine = Outcome.of(tuple(talk.place), value, failure)
    outcomes = [mine] * world_size()
    try:
        dist.all_gather_object(outcomes, mine)
    except RuntimeError as broken:
        # The process group is of no use any more.
        talk.lost = RankError(_gone(mine, broken))
        raise talk.lost from failure or broken
    met = len({outcome.place for outcome in outcomes}) == 1
    error = common_error(outcomes, failure)
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


def _gone(mine: Outcome, error: RuntimeError) -> str:
    """What is said where the ranks cannot be reached any more."""
    missing = absent("/".join(mine.place))
    if missing is None:
        who = "rank 0, or whoever holds the store of the process group, is gone"
    elif missing:
        who = f"no answer from {name_ranks(missing)}, which ended or hang"
    else:
        who = "all ranks answer by now; one was later than the timeout of the process group allows"
    cause = str(error).partition(". ")[0]
    return f"the ranks lost each other in {mine.where}: {who} ({cause}){mine.told}"
