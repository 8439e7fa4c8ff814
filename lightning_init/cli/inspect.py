"""``lightning-init inspect``: what the weights of a checkpoint are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_init.cli.checkpoints import ADDRESSES, add_which_weights, read_report
from lightning_init.cli.parsers import make_parser, parse
from lightning_init.cli.troubles import FAULT, CommandError
from lightning_init.console import print_table
from lightning_init.errors import InitError
from lightning_init.moments import STATISTICS
from lightning_init.report import InitReport
from lightning_init.report.columns import dtype_text, shape_text
from lightning_init.report.tables import finding_lines

__all__ = ["inspect"]

_DESCRIPTION = """\
Prints what the weights of a checkpoint are: shapes, types, statistics, and what is remarkable about them.

One tensor at a time is read. No code that a file brings is run. A report in a
.json file, as `InitReport.to_json` and `--json` write it, is shown likewise."""

_EPILOG = """\
exit status:
  0  it was read
  1  with --strict: something is found that is a warning or an error, or there is no tensor
  2  it cannot be read, or the command line is at fault

examples:
  lightning-init inspect last.ckpt
  lightning-init inspect hf://org/name --prefix encoder. --plot weights.png
  lightning-init inspect weights.pth --json > weights.json"""


def inspect(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: The command line behind ``inspect``.

    Returns:
        The exit status.

    Raises:
        CommandError: The checkpoint cannot be read, or what was asked for cannot be written.
    """
    parser = make_parser("inspect", _DESCRIPTION, _EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=str, help=ADDRESSES)
    add_which_weights(parser)
    parser.add_argument("--sha256", metavar="HEX", type=str, help="the hash of the file, or its beginning")
    parser.add_argument("--plot", metavar="FILE", type=str, help="draw the std of every tensor (.png, .pdf, .svg)")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON instead of the table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on a warning, an error, or nothing at all")
    given = parse(parser, argv)
    report = read_report(given.checkpoint, given, sha256=given.sha256)
    if given.plot is not None:
        _draw(report, given.plot)
    if given.json:
        sys.stdout.write(f"{report.to_json()}\n")
    else:
        _show(report)
    severe = [finding for finding in report.findings if finding.severity != "info"]
    # A guard that looks at nothing guards nothing.
    return FAULT if given.strict and (severe or not report.rows) else 0


# Findings tell of what is not finite.
_SPARE = ("nonfinite", "l2 norm", "abs mean", "zero fraction", "dtype", "max", "min")


def _show(report: InitReport) -> None:
    header = ("name", "shape", "dtype", *(name.replace("_", " ") for name in STATISTICS))
    rows = [
        (row.name, shape_text(row), dtype_text(row), *(_number(row.statistics, name) for name in STATISTICS))
        for row in report
    ]
    elements = int(report.totals()["elements"])
    tensors = "tensor" if len(report) == 1 else "tensors"
    told = [f"{len(report):,} {tensors} of {elements:,} elements", *finding_lines(report.findings)]
    print_table([header, *rows], [*told, *(f"note: {note}" for note in report.notes)], spare=_SPARE)


def _number(statistics: object, name: str) -> str:
    return f"{statistics[name]:.4g}" if isinstance(statistics, dict) else ""


def _draw(report: InitReport, path: str) -> None:
    try:
        figure = report.plot()
    except InitError as error:
        raise CommandError(str(error)) from None
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        # matplotlib raises the latter for an ending that it does not know.
        raise CommandError(f"cannot write {path!r}: {error}") from None
