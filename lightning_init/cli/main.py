"""``lightning-init``: finds the command, and ends the process as a command should."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from lightning_init import __version__
from lightning_init.cli.troubles import INTERRUPTED, PIPE_CLOSED, USAGE, CommandError

__all__ = ["NEEDED", "main"]

_COMMANDS = {
    "plan": "which rule writes which parameter of a model, before anything is written",
    "inspect": "what the weights of a checkpoint are",
    "diff": "in what two checkpoints, or two reports, differ",
}

NEEDED = ("jsonargparse", "docstring_parser", "yaml")
"""What the extra brings, and no command can do without."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _run(argv)
        sys.stdout.flush()
    except CommandError as error:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.write(f"lightning-init: {error}\n")
        return error.status
    except KeyboardInterrupt:
        sys.stderr.write("lightning-init: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        # Errors of reading are told where something is read.
        _drop_output()
        sys.stderr.write(f"lightning-init: cannot write: {error.strerror}\n")
        return USAGE
    return status


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in _COMMANDS:
        return _explain(argv)
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise CommandError(f'the command line needs {lacking[0]}: pip install "lightning-init[cli]"')
    module = importlib.import_module(f"lightning_init.cli.{argv[0]}")
    command: Callable[[Sequence[str]], int] = getattr(module, argv[0])
    try:
        return command(argv[1:])
    except SystemExit as end:
        # That of --help.
        return int(end.code or 0)


def _explain(argv: Sequence[str]) -> int:
    """What stands before a command: --help, --version, or a mistake."""
    parser = argparse.ArgumentParser(
        prog="lightning-init",
        description="Looks at weight initialisation before and after the fact.",
        epilog="`lightning-init COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"lightning-init {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, told in _COMMANDS.items():
        commands.add_parser(name, help=told)
    try:
        parser.parse_args(list(argv))
    except SystemExit as end:
        return int(end.code or 0)
    return USAGE


def _drop_output() -> None:
    """Lets Python's own flush at the end of the process go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
