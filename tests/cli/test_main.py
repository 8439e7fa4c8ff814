"""The command as a process: what it is called, how it ends, and what it does without its extra."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import lightning_init
from lightning_init.cli import main as cli_main
from lightning_init.cli.main import main
from tests.cli.conftest import Command

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

DEADLINE = 100.0


def started(*argv: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_init", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def test_the_entry_point_is_this_function() -> None:
    (value,) = [line for line in PYPROJECT.read_text().splitlines() if line.startswith("lightning-init = ")]
    entry = EntryPoint("lightning-init", value.partition(" = ")[2].strip('"'), "console_scripts")
    assert entry.load() is main


def test_help_and_version(run: Command) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "plan" in out
    assert run("--version") == (0, f"lightning-init {lightning_init.__version__}\n", "")


@pytest.mark.parametrize(("argv", "told"), [((), "COMMAND"), (("plann",), "invalid choice: 'plann'")])
def test_a_command_that_does_not_exist(run: Command, argv: tuple[str, ...], told: str) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert told in err


def test_a_missing_extra_is_told_in_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_main, "NEEDED", ("no_such_package",))
    assert run("plan", "nets.py:make") == (
        2,
        "",
        'lightning-init: the command line needs no_such_package: pip install "lightning-init[cli]"\n',
    )


def test_a_reader_that_has_seen_enough(folder: Path) -> None:
    # Longer than what a pipe takes unread.
    target = ("plan", "nets.py:LitNet", "--args.hidden=2", "--args.depth=3000")
    process = started(*target)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("parameter")
    process.stdout.close()
    assert (process.wait(DEADLINE), process.stderr.read()) == (128 + signal.SIGPIPE, "")


def test_a_full_disk(folder: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "lightning_init", "plan", "nets.py:make"]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=False)
    assert (process.returncode, process.stderr) == (2, "lightning-init: cannot write: No space left on device\n")


def test_ctrl_c(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import pathlib, time\nfrom nets import *\ndef make():\n"
        "    pathlib.Path('begun').touch()\n    time.sleep(1000)\n"
    )
    process = started("plan", "slow.py:make")
    try:
        until = time.monotonic() + DEADLINE
        while not (folder / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (128 + signal.SIGINT, "", "lightning-init: interrupted\n")
