"""The command as a process: what it is called, how it ends, and what it does without its extra."""

from __future__ import annotations

import json
import os
import re
import signal
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import lightning_init
from lightning_init.cli import main as cli_main
from lightning_init.cli.main import main
from tests.cli.conftest import Command
from tests.distributed.harness import run_script

ROOT = Path(__file__).parents[2]
ENDINGS = Path(__file__).with_name("endings.py")
DEADLINE = 100.0


def test_the_entry_point_is_this_function() -> None:
    (value,) = re.findall(r'^lightning-init = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    entry = EntryPoint("lightning-init", value, "console_scripts")
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


def test_how_a_process_begins_and_ends(tmp_path: Path) -> None:
    output = run_script([ENDINGS], deadline=DEADLINE, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    endings = json.loads(output.splitlines()[-1])
    assert endings.pop("heavy") == []
    assert endings.pop("to_a_reader_that_has_seen_enough") == [128 + signal.SIGPIPE, ""]
    assert endings.pop("interrupted") == [128 + signal.SIGINT, "lightning-init: interrupted\n"]
    full = [2, "lightning-init: cannot write: No space left on device\n"]
    assert endings == ({"to_a_full_disk": full} if os.access("/dev/full", os.W_OK) else {})
