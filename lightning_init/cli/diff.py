"""``lightning-init diff``: in what two checkpoints, or two reports, differ."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from lightning_init.checkpoint.comparison import Difference, compare
from lightning_init.cli.checkpoints import (
    ADDRESSES,
    add_which_weights,
    is_report,
    pretrained,
    read_report,
    with_progress,
)
from lightning_init.cli.parsers import make_parser, parse
from lightning_init.cli.troubles import FAULT, CommandError
from lightning_init.console import print_table
from lightning_init.errors import InitError

__all__ = ["diff"]

_DESCRIPTION = """\
Prints in what the weights of two checkpoints differ: what was removed, added, or changed, bit by bit.

Both may be in any format, and one pair of tensors at a time is read. No code that a file brings is run.
If one is a report (a .json file, as `InitReport.to_json` and `inspect --json` write it), statistics are compared."""

_EPILOG = """\
The options say which weights are meant in both.

exit status:
  0  they are the same
  1  they differ
  2  one cannot be read, or the command line is at fault

examples:
  lightning-init diff before.ckpt after.ckpt
  lightning-init diff model.safetensors hf://org/name --prefix encoder."""


def diff(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: The command line behind ``diff``.

    Returns:
        The exit status.

    Raises:
        CommandError: One of them cannot be read.
    """
    parser = make_parser("diff", _DESCRIPTION, _EPILOG)
    parser.add_argument("a", metavar="A", type=str, help=ADDRESSES)
    parser.add_argument("b", metavar="B", type=str, help="likewise")
    add_which_weights(parser)
    given = parse(parser, argv)
    if is_report(given.a) or is_report(given.b):
        difference = read_report(given.a, given).diff(read_report(given.b, given))
        if difference:
            sys.stdout.write(f"{difference}\n")
        return FAULT if difference else 0
    try:
        found = compare(pretrained(given.a, given), pretrained(given.b, given), with_progress)
    except InitError as error:
        raise CommandError(f"{type(error).__name__}: {error}") from None
    if not found:
        return 0
    count = Counter(it.kind for it in found)
    told = ", ".join(f"{number} {_WORDS[kind]}" for kind, number in count.items())
    print_table([_HEADER, *map(_row, found)], [told])
    return FAULT


_HEADER = ("name", "what", "in A", "in B", "largest difference")
_WORDS = {
    "removed": "only in A",
    "added": "only in B",
    "shape": "of another shape",
    "dtype": "of another type",
    "values": "with other values",
}


def _row(found: Difference) -> tuple[str, ...]:
    largest = "" if found.largest is None else f"{found.largest:.4g}"
    return found.name, _WORDS[found.kind], found.before, found.after, largest
