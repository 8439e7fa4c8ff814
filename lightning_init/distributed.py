"""What ranks tell each other, on ``torch.distributed`` alone; in a single process nothing happens here.

Everything crosses ranks as an *outcome*, a value or an error, and through one primitive. A rank that fails posts its
error to whichever exchange the others are waiting in, so nobody is left at a barrier and every rank raises.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

from lightning_init.errors import Fault, InitError, RankError

__all__ = ["agree", "from_rank_zero", "one_first", "rank", "together", "world_size"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome:
    """What one rank reports of one stage."""

    stage: str
    value: Any = None
    error: InitError | None = None
    crash: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or self.crash is not None


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
        InitError: Another rank raised it; the message names that rank.
        RankError: Another rank raised something else, or is at another stage.
    """
    value, failure = _attempt(stage, run)
    _exchange(_Outcome(stage) if failure is None else failure[0], failure and failure[1])
    return value  # type: ignore[return-value]  # a failure has been raised by now


def one_first(stage: str, run: Callable[[], T]) -> T:
    """Runs something on rank zero, then, if that went well, on the other ranks.

    Args and errors are those of `together`.
    """
    if world_size() == 1:
        return run()
    leads = rank() == 0
    value: T | None = None
    for turn in (True, False):
        failure = None
        if leads is turn:
            value, failure = _attempt(stage, run)
        _exchange(_Outcome(stage) if failure is None else failure[0], failure and failure[1])
    return value  # type: ignore[return-value]  # set in one of the two turns


def from_rank_zero(stage: str, run: Callable[[], T]) -> T:
    """Runs something on rank zero alone and gives its value, which must pickle, to every rank.

    Args and errors are those of `together`.
    """
    value, failure = _attempt(stage, run) if rank() == 0 else (None, None)
    outcomes = _exchange(_Outcome(stage, value) if failure is None else failure[0], failure and failure[1])
    return value if rank() == 0 else outcomes[0].value  # type: ignore[return-value]


def agree(stage: str, items: Mapping[str, str], told: Callable[[list[str]], str]) -> None:
    """Compares what the ranks hold.

    Args:
        stage: What is compared, for messages.
        items: A description by name; equal on all ranks if all is well.
        told: Makes the message from the names that differ.

    Raises:
        RankError: Some names differ or stand on some ranks only.
    """
    outcomes = _exchange(_Outcome(stage, dict(items)), None)
    differing: dict[str, list[int]] = {}
    for other in outcomes:
        names = {**outcomes[0].value, **other.value}
        for name in names:
            if outcomes[0].value.get(name) != other.value.get(name):
                differing.setdefault(name, []).append(outcomes.index(other))
    if differing:
        raise _shared(
            RankError(
                told(
                    [f"{name} (rank {', '.join(map(str, ranks))} against rank 0)" for name, ranks in differing.items()]
                )
            )
        )


def _attempt(stage: str, run: Callable[[], T]) -> tuple[T | None, tuple[_Outcome, Exception] | None]:
    if world_size() == 1:
        return run(), None
    try:
        return run(), None
    except InitError as error:
        if _is_shared(error):
            raise
        return None, (_Outcome(stage, error=error), error)
    except Exception as error:
        if _is_shared(error):
            raise
        crash = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        return None, (_Outcome(stage, crash=crash), error)


def _exchange(mine: _Outcome, error: Exception | None) -> list[_Outcome]:
    if world_size() == 1:
        return [mine]
    outcomes: list[_Outcome] = [mine] * world_size()
    dist.all_gather_object(outcomes, mine)
    failed = [i for i, outcome in enumerate(outcomes) if outcome.failed]
    if failed:
        _raise(outcomes, failed, error)
    stages = [outcome.stage for outcome in outcomes]
    if len(set(stages)) > 1:
        told = ", ".join(f"rank {i} at {stage!r}" for i, stage in enumerate(stages))
        raise _shared(RankError(f"the ranks take different ways: {told}; give every rank the same model and config"))
    return outcomes


def _raise(outcomes: list[_Outcome], failed: list[int], mine: Exception | None) -> NoReturn:
    if mine is not None and (len(failed) == len(outcomes) or not isinstance(mine, InitError)):
        raise _shared(mine)
    origin = failed[0]
    first = outcomes[origin]
    if first.error is None:
        raise _shared(RankError(f"rank {origin} failed in {first.stage!r}: {first.crash}"))
    faults = [Fault(fault.where, f"{fault.what} [on rank {origin}]") for fault in first.error.faults]
    raise _shared(type(first.error)(faults)) from mine


def _shared(error: Exception) -> Exception:
    """Marks an error that every rank raises already, so that it is not posted again further out."""
    error.lightning_init_shared = True  # type: ignore[attr-defined]
    return error


def _is_shared(error: Exception) -> bool:
    return getattr(error, "lightning_init_shared", False)
