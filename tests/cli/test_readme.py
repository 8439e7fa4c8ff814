"""What the README says about the command line is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_init import build_plan
from tests.cli.conftest import Command
from tests.models import Holder, linear

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_plan_of_the_example(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (shown,) = re.findall(r"^```\n\$ lightning-init (plan .*?)^```", README, re.DOTALL | re.MULTILINE)
    command, _, output = str(shown).partition("\n")
    assert run(*shlex.split(command), "--strict", "--require_all") == (0, output, "")


def test_the_rules_in_yaml() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    plan = build_plan(Holder(body=linear(), head=linear()), yaml.safe_load(text)["model"]["init_cfg"])
    winners = [entry.winner.what for entry in plan if entry.winner]
    assert [what.partition("(")[0] for what in winners] == ["Kaiming", "Kaiming", "Normal", "Normal"]
