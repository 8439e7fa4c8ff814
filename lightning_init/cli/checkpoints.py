"""What the commands about checkpoints share: which weights are meant, and reading them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, Namespace

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.cli.troubles import CommandError
from lightning_init.errors import InitError
from lightning_init.report import InitReport, report_of_checkpoint

__all__ = ["ADDRESSES", "add_which_weights", "is_report", "pretrained", "read_report", "with_progress"]

T = TypeVar("T")

ADDRESSES = (
    "a file or folder, or an address such as https://..., hf://org/name, s3://..., torchvision://resnet50: whatever "
    "`Pretrained` reads"
)


def add_which_weights(parser: ArgumentParser) -> None:
    """Adds the arguments of ``Pretrained`` that say which of the weights in a checkpoint are meant."""
    parser.add_argument("--prefix", metavar="KEY", type=str, help="only the keys below it, without it")
    parser.add_argument("--container", metavar="NAME", type=str, help="where in the checkpoint the weights are")
    parser.add_argument("--ema", action="store_true", help="the averaged weights")
    parser.add_argument("--include", metavar="NAMES", type=list[str] | str, default=[], help="only these, as patterns")
    parser.add_argument("--exclude", metavar="NAMES", type=list[str] | str, default=[], help="not these")


def pretrained(checkpoint: str, given: Namespace, *, sha256: str | None = None) -> PretrainedInit:
    """The rule that would load the weights that are meant.

    Raises:
        InitConfigError: An argument has a wrong value.
    """
    return PretrainedInit(
        checkpoint,
        prefix=given.prefix,
        sha256=sha256,
        container=given.container,
        ema=given.ema,
        include=given.include,
        exclude=given.exclude,
    )


def is_report(path: str) -> bool:
    """It is a file that a report was written to, by its ending; indices of shards are checkpoints."""
    return path.endswith(".json") and not path.endswith(".index.json")


def read_report(path: str, given: Namespace, *, sha256: str | None = None) -> InitReport:
    """The report in a file, or one of the weights in a checkpoint.

    Raises:
        CommandError: It cannot be read.
    """
    try:
        if is_report(path):
            return InitReport.from_json(Path(path))
        return report_of_checkpoint(pretrained(path, given, sha256=sha256), track=with_progress)
    except InitError as error:
        raise CommandError(f"{type(error).__name__}: {error}") from None


def with_progress(wanted: Sequence[T]) -> Iterable[T]:
    """A bar on a terminal; it goes away when all is read."""
    if not sys.stderr.isatty():
        return wanted
    try:
        from rich.console import Console  # noqa: PLC0415 - an optional extra
        from rich.progress import track  # noqa: PLC0415 - the same
    except ImportError:
        return wanted
    return track(wanted, "reading", console=Console(stderr=True), transient=True)
