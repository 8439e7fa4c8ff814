"""What one rank tells the others of an exchange: a value or an error; and the error that all of them raise then."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_init.errors import CheckpointError, Fault, InitConfigError, InitError, RankError

__all__ = ["Outcome", "common_error", "name_ranks"]

# What an error of several ranks is raised as: the first of these that one of them is. Classes of users are not sent,
# since another process may lack them.
_KINDS = (InitConfigError, RankError, CheckpointError, InitError)


@dataclass(frozen=True)
class Outcome:
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

    @classmethod
    def of(cls, place: tuple[str, ...], value: Any, failure: Exception | None) -> Outcome:
        """What a rank reports behind its part, which gave a value or failed."""
        if failure is None:
            return cls(place, value)
        if isinstance(failure, InitError):
            kind = next(kind for kind in _KINDS if isinstance(failure, kind))
            return cls(place, kind=kind, faults=failure.faults)
        told = "".join(traceback.format_exception(failure))
        return cls(place, crash=f"{type(failure).__name__}: {failure}\n{told}")

    @property
    def where(self) -> str:
        """The stages, from the innermost, for a message."""
        return " of ".join(map(repr, reversed(self.place)))

    @property
    def told(self) -> str:
        """What went wrong on the rank itself, behind another message."""
        wrong = self.crash or "\n".join(map(str, self.faults))
        return f"\nBefore that, on this rank: {wrong}" if wrong else ""


def common_error(outcomes: Sequence[Outcome], mine: Exception | None) -> Exception | None:
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
        fault if len(those) == len(outcomes) else Fault(fault.where, f"{fault.what} [on {name_ranks(those)}]")
        for fault, those in raised_by.items()
    ]
    kind = min(kinds, key=_KINDS.index)
    if isinstance(mine, kind) and mine.faults == tuple(faults):
        return mine
    return kind(faults)


def name_ranks(those: Sequence[int]) -> str:
    """Some ranks, for a message."""
    return f"rank{'s' if len(those) > 1 else ''} {', '.join(map(str, those))}"
