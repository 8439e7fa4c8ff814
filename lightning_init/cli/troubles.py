"""What ends a command early, and how the failures of a user's code are told."""

from __future__ import annotations

import traceback
from collections.abc import Collection

__all__ = ["FAULT", "INTERRUPTED", "PIPE_CLOSED", "USAGE", "CommandError", "told_short"]

FAULT = 1
"""The exit status for a config or a model that is at fault, for findings, and for files that differ."""

USAGE = 2
"""The exit status for a command line that cannot be meant, or a file that cannot be read."""

INTERRUPTED = 128 + 2
"""The exit status after Ctrl-C, as shells give it."""

PIPE_CLOSED = 128 + 13
"""The exit status when nobody reads what is printed any more, as in ``| head``."""

_FRAMES = 4
_OF_OTHERS = ("importlib", "jsonargparse", "lightning_init")


class CommandError(Exception):
    """Ends a command with a message on standard error.

    Args:
        message: What is wrong, and what to do.
        status: The exit status.
    """

    def __init__(self, message: str, status: int = USAGE) -> None:
        super().__init__(message)
        self.status = status


def told_short(error: BaseException, skip: Collection[str] = _OF_OTHERS) -> str:
    """The last lines of a traceback that are the user's, without those of the packages that called the code.

    Args:
        error: What was raised.
        skip: The packages whose lines do not count.
    """
    told = traceback.TracebackException.from_exception(error)
    if isinstance(error, SyntaxError):
        return "".join(told.format_exception_only()).rstrip()
    frames = [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    mine = [
        summary
        for (name, _), summary in zip(frames, told.stack, strict=True)
        if name.partition(".")[0] not in skip and not summary.filename.startswith("<")
    ]
    lines = traceback.StackSummary.from_list(mine[-_FRAMES:]).format()
    return "".join([*lines, *told.format_exception_only()]).rstrip()
