"""The errors and warnings of the library; what every other module raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "CheckpointError",
    "Fault",
    "InitConfigError",
    "InitError",
    "InitWarning",
    "RankError",
    "checkpoint_error",
    "did_you_mean",
]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where.

    Attributes:
        where: The place in the user's code, such as ``"LitNet.init_cfg[1].override[0].std"``; empty if there is none.
        what: What is wrong there, what would be right, and what to do.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def below(self, where: str) -> Fault:
        """The same fault seen from an outer place.

        >>> print(Fault("std", "must be >= 0, got -1").below("LitNet.init_cfg[0]"))
        LitNet.init_cfg[0].std: must be >= 0, got -1
        """
        if not self.where:
            return Fault(where, self.what)
        joint = "" if self.where.startswith("[") else "."
        return Fault(f"{where}{joint}{self.where}", self.what)


class InitError(Exception):
    """Base class of everything this library raises on purpose.

    Args:
        faults: What is wrong, all of it; a plain string is one fault without a place.

    Attributes:
        faults: The faults as data.
    """

    headline = "faults in the initialisation"

    def __init__(self, faults: str | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (Fault("", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return "\n  - ".join([f"{len(self.faults)} {self.headline}:", *map(str, self.faults)])


class InitConfigError(InitError, TypeError, ValueError, RuntimeError):
    """An ``init_cfg`` that cannot be meant; it lists every fault with its path.

    It is a ``TypeError``, ``ValueError`` and ``RuntimeError`` as well, because those are what MMEngine raises for the
    same mistakes.
    """

    headline = "faults in the init config"


class CheckpointError(InitError):
    """A checkpoint that cannot be read, or that does not fit the module."""

    headline = "faults in the checkpoints"


class RankError(InitError):
    """Ranks of one job that disagree, or a failure on another rank."""

    headline = "faults between the ranks"


class InitWarning(UserWarning):
    """A config that can be meant, but probably is not."""


def checkpoint_error(what: str) -> CheckpointError:
    """The error for what is wrong with the checkpoint itself, and not with another argument.

    >>> print(checkpoint_error("'w.pth' is an empty file"))
    checkpoint: 'w.pth' is an empty file
    """
    return CheckpointError([Fault("checkpoint", what)])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix for a message about an unknown name: the nearest known ones, or all of them when none is near.

    >>> did_you_mean("Kaimin", ["Kaiming", "Normal"])
    "did you mean 'Kaiming'?"
    >>> did_you_mean("zzz", ["Kaiming", "Normal"])
    "there are 'Kaiming', 'Normal'"
    >>> did_you_mean("zzz", [])
    'there are none'
    """
    names = sorted(set(known))
    lowered = {candidate.lower(): candidate for candidate in names}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    if not names:
        return "there are none"
    shown = ", ".join(map(repr, names[:20]))
    return f"there are {shown}{', ...' if len(names) > 20 else ''}"
