"""A script: runs ``python -m lightning_init`` in processes of its own, and tells as JSON how each of them ended.

Every process is forked from this one, which has imported everything; it ends as any interpreter does.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning_init.cli.diff
import lightning_init.cli.inspect
import lightning_init.cli.plan  # noqa: F401  # so that no process has to import it

CODE = """
import pathlib, time
from torch import nn

def wait():
    pathlib.Path("begun").touch()
    time.sleep(1000)

def longer_than_what_a_pipe_takes_unread():
    return nn.Sequential(*[nn.ParameterDict({"p" * 2000: nn.Parameter()}) for _ in range(50)])
"""
LONG = ["plan", "models.py:longer_than_what_a_pipe_takes_unread"]


def ended(argv: list[str], stdout: int, meanwhile: Callable[[int], None] = lambda pid: None) -> tuple[int, str]:
    """The exit status of a command, and its errors."""
    errors = Path("stderr.txt")
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.dup2(stdout, 1)
        os.closerange(3, 100)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["lightning-init", *argv]
        runpy.run_module("lightning_init", run_name="__main__")
    os.close(stdout)
    meanwhile(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), errors.read_text()


def to_a_reader_that_has_seen_enough() -> tuple[int, str]:
    reading, writing = os.pipe()

    def read_a_little(pid: int) -> None:
        assert os.read(reading, 9) == b"parameter"
        os.close(reading)

    return ended(LONG, writing, read_a_little)


def to_a_full_disk() -> tuple[int, str]:
    return ended(LONG, os.open("/dev/full", os.O_WRONLY))


def interrupted() -> tuple[int, str]:
    def when_it_has_begun(pid: int) -> None:
        while not Path("begun").exists():
            time.sleep(0.02)
        os.kill(pid, signal.SIGINT)

    return ended(["plan", "models.py:wait"], os.open(os.devnull, os.O_WRONLY), when_it_has_begun)


def heavy() -> list[str]:
    """What takes seconds to import, and no command needs by itself."""
    return sorted({"lightning", "matplotlib", "torchmetrics", "transformers"} & set(sys.modules))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cases = [to_a_reader_that_has_seen_enough, interrupted]
    if os.access("/dev/full", os.W_OK):
        cases.append(to_a_full_disk)
    Path("models.py").write_text(CODE)
    sys.stdout.write(json.dumps({"heavy": heavy(), **{case.__name__: case() for case in cases}}))
