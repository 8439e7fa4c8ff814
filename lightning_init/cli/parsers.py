"""Command lines by jsonargparse, and what is wrong with them in a line."""

from __future__ import annotations

import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Collection, Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from lightning_init.cli.troubles import CommandError
from lightning_init.errors import did_you_mean
from lightning_init.text import quoted

__all__ = ["first_positional", "make_parser", "parse"]


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of descriptions."""


def make_parser(command: str, description: str, epilog: str) -> ArgumentParser:
    """A parser of one command, without arguments yet."""
    return ArgumentParser(
        prog=f"lightning-init {command}",
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        default_env=False,
    )


def first_positional(argv: Sequence[str], flags: Collection[str]) -> str | None:
    """The first argument that is neither an option nor the value of one.

    Args:
        argv: The command line.
        flags: The options that take no value.

    >>> first_positional(["--strict", "--args.hidden", "3", "train.py:Net"], {"--strict"})
    'train.py:Net'
    """
    rest = iter(argv)
    for argument in rest:
        if not argument.startswith("-"):
            return argument
        if argument not in flags and "=" not in argument:
            next(rest, None)
    return None


def parse(parser: ArgumentParser, argv: Sequence[str], subject: str = "") -> Namespace:
    """Parses a command line.

    Args:
        parser: The parser.
        argv: The command line.
        subject: What the arguments below ``--args`` are for.

    Raises:
        CommandError: The command line cannot be meant.
    """
    try:
        return parser.parse_args(list(argv))
    except ArgumentError as error:
        known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
        told = _told(error.message or str(error), known, subject)
        raise CommandError(f"{told}\n(`{parser.prog}{' TARGET' if subject else ''} --help` tells more)") from None


def _told(message: str, known: Collection[str], subject: str) -> str:
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        names = missing[1].split(", ")
        own = [name.removeprefix("args.") for name in names if name.startswith("args.")]
        if not own:
            return f"{', '.join(names)}: required"
        options = " ".join(f"--args.{name} ..." for name in own)
        return f"{subject} cannot do without {quoted(own, 20)}; give {options}, or a file of them: --args FILE.yaml"
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    return f"there is no option {unknown[1]}; {did_you_mean(unknown[1], known)}" if unknown else message
